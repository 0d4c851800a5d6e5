"""Make the events of a case: each is a function of the seed and its number, and carries the number as its `product_id`."""

from __future__ import annotations

import json
import random

from streams.event_time import format_instant
from tests.support.tags import Tag

START_MS = 1_646_092_800_000
START_MINUTE_TEXT = "2022-03-01T00:00"
MINUTES = 10
"""All events lie in ten minutes, which is what one query may ask for."""
ORIGINS = 4
BRANDS = 3
CATEGORIES = 3
HOT_COOKIE = "cookie-hot"
HOT_SHARE = 0.03
"""Of 20,000 events it gets more than the 200 of a kind that a profile keeps."""
BUY_SHARE = 0.3
PRICE_FACTOR = 7_919
PRICE_MAX = 30_011


def an_event(seed: int, number: int, *, cookies: int) -> Tag:
    """Return event *number* of *seed*; its user is one of *cookies*, or the hot one."""
    draw = random.Random(seed << 40 | number).random
    cookie = HOT_COOKIE if draw() < HOT_SHARE else f"cookie-{int(draw() * cookies)}"
    value = (
        f'{{"time":"{format_instant(START_MS + int(draw() * MINUTES * 60_000))}","cookie":"{cookie}","country":"PL",'
        f'"device":"MOBILE","action":"{"BUY" if draw() < BUY_SHARE else "VIEW"}","origin":"origin-{int(draw() * ORIGINS)}",'
        f'"product_info":{{"product_id":{number},"brand_id":"brand-{int(draw() * BRANDS)}",'
        f'"category_id":"category-{int(draw() * CATEGORIES)}","price":{number * PRICE_FACTOR % PRICE_MAX}}}}}'
    )
    return Tag(cookie.encode(), value.encode())


def number_of(value: bytes | None) -> int | None:
    """Return the number of an event's record; None where there is none to read.

    >>> number_of(an_event(1, 77, cookies=5).value)
    77
    >>> number_of(b"{}") is None
    True
    """
    try:
        number = json.loads(value or b"")["product_info"]["product_id"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return number if isinstance(number, int) else None
