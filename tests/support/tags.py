"""Make many user tags cheaply, the same for the same seed: skewed like the real ones, out of order by minutes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import NamedTuple

START_MINUTE = 27_434_880
"""2022-03-01T00:00Z in minutes since 1970."""
START_TEXT = "2022-03-01T00:00"
COOKIES = 20_000
ORIGINS = 300
BRANDS = 60
CATEGORIES = 20


class Tag(NamedTuple):
    """One record of the source topic."""

    key: bytes
    value: bytes


def some_tags(seed: int, count: int, *, minutes: int = 12) -> Iterator[Tag]:
    """Yield *count* valid tags whose event times lie anywhere in the *minutes* from `START_TEXT` on (at most 60)."""
    rng = random.Random(seed)
    draw = rng.random
    for _ in range(count):
        cookie = f"user-{int(draw() ** 3 * COOKIES)}"
        at_ms = int(draw() * minutes * 60_000)
        fraction = f".{at_ms % 1000:03}" if at_ms % 7 else ""  # senders drop or shorten it at times
        price = int(draw() * 33_000) - 50
        value = (
            f'{{"time":"2022-03-01T00:{at_ms // 60_000:02}:{at_ms // 1000 % 60:02}{fraction}Z","cookie":"{cookie}",'
            f'"country":"PL","device":"MOBILE","action":"{"BUY" if draw() < 0.2 else "VIEW"}",'
            f'"origin":"ORIGIN_{int(draw() ** 3 * ORIGINS)}","product_info":{{"product_id":{int(draw() * 9_999)},'
            f'"brand_id":"brand {int(draw() ** 2 * BRANDS)}","category_id":"żółć-{int(draw() * CATEGORIES)}",'
            f'"price":{price}}}}}'
        )
        yield Tag(cookie.encode(), value.encode())
