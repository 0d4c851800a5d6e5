"""Make the two queries of the Allezon mix, and say whether an answer has the right shape.

Whether its numbers are right is for an oracle, not for a generator of load.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, urlencode

import msgspec

from load.events import BRANDS, CATEGORIES, ORIGINS
from streams.event_time import format_minute

PROFILE_LIMIT = 200
RANGE_MINUTES_MAX = 10
RANGE_MARGIN_MS_MAX = 500


class _Product(msgspec.Struct, forbid_unknown_fields=True):
    product_id: int | str
    brand_id: str
    category_id: str
    price: int


class _Tag(msgspec.Struct, forbid_unknown_fields=True):
    time: str
    cookie: str
    country: str
    device: str
    action: str
    origin: str
    product_info: _Product


class _Profile(msgspec.Struct, forbid_unknown_fields=True):
    cookie: str
    views: list[_Tag]
    buys: list[_Tag]


class _Aggregates(msgspec.Struct, forbid_unknown_fields=True):
    columns: list[str]
    rows: list[list[str]]


_decode_profile = msgspec.json.Decoder(_Profile).decode
_decode_aggregates = msgspec.json.Decoder(_Aggregates).decode


def profile_target(cookie: str, at_ms: int, chance: random.Random) -> str:
    """Return path and query string that ask for the events of a user around *at_ms* (milliseconds since 1970)."""
    start_ms = at_ms - chance.randrange(RANGE_MARGIN_MS_MAX)
    end_ms = at_ms + 1 + chance.randrange(RANGE_MARGIN_MS_MAX)
    time_range = f"{_bound(start_ms)}_{_bound(end_ms)}"
    return f"/user_profiles/{quote(cookie, safe='')}?time_range={time_range}&limit={PROFILE_LIMIT}"


def is_profile(body: bytes, cookie: str) -> bool:
    """Say whether a body is a profile of *cookie*: at most 200 of each action, newest first."""
    try:
        profile = _decode_profile(body)
    except msgspec.DecodeError:
        return False
    return profile.cookie == cookie and _is_list_of(profile.views, "VIEW") and _is_list_of(profile.buys, "BUY")


def _is_list_of(tags: Sequence[_Tag], action: str) -> bool:
    seconds = [tag.time[:19] for tag in tags]  # Equal fractions may be written differently, equal seconds never.
    return len(tags) <= PROFILE_LIMIT and all(tag.action == action for tag in tags) and seconds == sorted(seconds, reverse=True)


class AggregatesQuery:
    """One query of aggregates: up to ten minutes that end with *minute_end* (since 1970, exclusive), any filters."""

    def __init__(self, minute_end: int, chance: random.Random) -> None:
        minutes = chance.randint(1, RANGE_MINUTES_MAX)
        names = {"origin": f"CAMPAIGN_{chance.randrange(ORIGINS)}", "brand_id": f"Brand_{chance.randrange(BRANDS)}"}
        names["category_id"] = f"Category_{chance.randrange(CATEGORIES)}"
        filters = {name: value for name, value in names.items() if chance.random() < 0.5}
        aggregates = chance.choice([["COUNT"], ["SUM_PRICE"], ["COUNT", "SUM_PRICE"], ["SUM_PRICE", "COUNT"]])
        self._action = chance.choice(["VIEW", "BUY"])
        self._buckets = [format_minute(minute) for minute in range(minute_end - minutes, minute_end)]
        self._filters = list(filters.values())
        self._columns = ["1m_bucket", "action", *filters, *(name.lower() for name in aggregates)]
        self._pairs: list[tuple[str, str]] = [
            ("time_range", f"{self._buckets[0]}_{format_minute(minute_end)}"),
            ("action", self._action),
            *filters.items(),
            *(("aggregates", name) for name in aggregates),
        ]

    def target(self) -> str:
        """Return path and query string."""
        return "/aggregates?" + urlencode(self._pairs, safe=":")

    def is_answer(self, body: bytes) -> bool:
        """Say whether a body has the columns, a row for each minute, and whole numbers in the cells."""
        try:
            answer = _decode_aggregates(body)
        except msgspec.DecodeError:
            return False
        if answer.columns != self._columns or len(answer.rows) != len(self._buckets):
            return False
        return all(map(self._is_row, answer.rows, self._buckets))

    def _is_row(self, row: Sequence[Any], bucket: str) -> bool:
        fixed = [bucket, self._action, *self._filters]
        numbers = row[len(fixed) :]
        return (
            list(row[: len(fixed)]) == fixed
            and len(row) == len(self._columns)
            and all(number.isascii() and number.removeprefix("-").isdigit() for number in numbers)
        )


def _bound(at_ms: int) -> str:
    """Return the text of a bound of a profile's range."""
    minute, rest_ms = divmod(at_ms, 60_000)
    seconds, milliseconds = divmod(rest_ms, 1000)
    return f"{format_minute(minute)[:-2]}{seconds:02d}.{milliseconds:03d}"
