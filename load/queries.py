"""Make the two queries of the Allezon mix, read their answers, and say whether an answer has the right shape.

Whether its numbers are right is said by load/oracle.py.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

import msgspec

from load.events import BRANDS, CATEGORIES, ORIGINS
from streams.event_time import MINUTE_MS, format_minute

PROFILE_LIMIT = 200
RANGE_MINUTES_MAX = 10
RANGE_MARGIN_MS_MAX = 500
WIDE_SHARE = 0.05
WIDE_BACK_MS, WIDE_AHEAD_MS = 300_000, 60_000
POPULARITY = 4
"""Values of filters are drawn as the fourth power of a uniform number: the frequent ones more often, so that most answers
are not zero."""
ACTIONS = ("VIEW", "BUY")
AGGREGATES = (("COUNT",), ("SUM_PRICE",), ("COUNT", "SUM_PRICE"), ("SUM_PRICE", "COUNT"))


class Product(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a tag is about; *product_id* keeps the type it came in."""

    product_id: int | str
    brand_id: str
    category_id: str
    price: int


class Tag(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One event as it is sent, and as it must come back: equal texts, equal types. Two equal ones have one hash."""

    time: str
    cookie: str
    country: str
    device: str
    action: str
    origin: str
    product_info: Product


class Profile(msgspec.Struct, forbid_unknown_fields=True):
    """The answer to a profile query."""

    cookie: str
    views: list[Tag]
    buys: list[Tag]


class _Aggregates(msgspec.Struct, forbid_unknown_fields=True):
    columns: list[str]
    rows: list[list[str]]


decode_tag = msgspec.json.Decoder(Tag).decode
_decode_profile = msgspec.json.Decoder(Profile).decode
_decode_aggregates = msgspec.json.Decoder(_Aggregates).decode


@dataclass(frozen=True)
class ProfileQuery:
    """The events of a user from *start_ms* to *end_ms* (milliseconds since 1970, exclusive), at most *limit* of an action."""

    cookie: str
    start_ms: int
    end_ms: int
    limit: int = PROFILE_LIMIT

    def target(self) -> str:
        """Return path and query string."""
        time_range = f"{_bound(self.start_ms)}_{_bound(self.end_ms)}"
        return f"/user_profiles/{quote(self.cookie, safe='')}?time_range={time_range}&limit={self.limit}"

    def read(self, body: bytes) -> Profile | None:
        """Return the profile that a body is; None where it is none of this user, or not in order."""
        return _read_profile(body, self.cookie)


def draw_profile(cookie: str, at_ms: int, chance: random.Random) -> ProfileQuery:
    """Ask for the events of a user around *at_ms* (milliseconds since 1970).

    As the public generator does, within half a second; one in twenty over minutes and with any limit, so that the 200 newest
    and the limit are seen to act.
    """
    if chance.random() < WIDE_SHARE:
        return ProfileQuery(cookie, at_ms - WIDE_BACK_MS, at_ms + WIDE_AHEAD_MS, chance.randint(0, PROFILE_LIMIT))
    start_ms = at_ms - chance.randrange(RANGE_MARGIN_MS_MAX)
    return ProfileQuery(cookie, start_ms, at_ms + 1 + chance.randrange(RANGE_MARGIN_MS_MAX))


def is_profile(body: bytes, cookie: str) -> bool:
    """Say whether a body is a profile of *cookie*: at most 200 of each action, newest first."""
    return _read_profile(body, cookie) is not None


def _read_profile(body: bytes, cookie: str) -> Profile | None:
    try:
        profile = _decode_profile(body)
    except msgspec.DecodeError:
        return None
    is_right = profile.cookie == cookie and _is_list_of(profile.views, "VIEW") and _is_list_of(profile.buys, "BUY")
    return profile if is_right else None


def _is_list_of(tags: Sequence[Tag], action: str) -> bool:
    seconds = [tag.time[:19] for tag in tags]  # Equal fractions may be written differently, equal seconds never.
    return len(tags) <= PROFILE_LIMIT and all(tag.action == action for tag in tags) and seconds == sorted(seconds, reverse=True)


@dataclass(frozen=True)
class AggregatesQuery:
    """Totals of the minutes from *first* to *end* (since 1970, exclusive); *filters* in the contract's order, action first."""

    first: int
    end: int
    filters: dict[str, str]
    aggregates: tuple[str, ...]

    def target(self) -> str:
        """Return path and query string."""
        time_range = f"{format_minute(self.first)}_{format_minute(self.end)}"
        pairs = [("time_range", time_range), *self.filters.items(), *(("aggregates", name) for name in self.aggregates)]
        return "/aggregates?" + urlencode(pairs, safe=":")

    def columns(self) -> list[str]:
        """Return the names of the columns that an answer must have."""
        return ["1m_bucket", *self.filters, *(name.lower() for name in self.aggregates)]

    def read(self, body: bytes) -> list[list[int]] | None:
        """Return the aggregates of each minute; None where the body has other columns, rows or cells than the query asks."""
        try:
            answer = _decode_aggregates(body)
        except msgspec.DecodeError:
            return None
        minutes = range(self.first, self.end)
        if answer.columns != self.columns() or len(answer.rows) != len(minutes):
            return None
        numbers = [self._numbers(row, format_minute(minute)) for row, minute in zip(answer.rows, minutes, strict=True)]
        return [row for row in numbers if row is not None] if None not in numbers else None

    def _numbers(self, row: Sequence[Any], bucket: str) -> list[int] | None:
        fixed = [bucket, *self.filters.values()]
        numbers = row[len(fixed) :]
        is_right = (
            list(row[: len(fixed)]) == fixed
            and len(numbers) == len(self.aggregates)
            and all(number.isascii() and number.removeprefix("-").isdigit() for number in numbers)
        )
        return [int(number) for number in numbers] if is_right else None


def draw_aggregates(first: int, end: int, chance: random.Random) -> AggregatesQuery:
    """Ask for up to ten of the minutes from *first* on, ending with *end* (since 1970, exclusive), with any filters."""
    minutes = chance.randint(1, min(RANGE_MINUTES_MAX, end - first))
    values = {"origin": f"CAMPAIGN_{_popular(ORIGINS, chance)}", "brand_id": f"Brand_{_popular(BRANDS, chance)}"}
    values["category_id"] = f"Category_{_popular(CATEGORIES, chance)}"
    filters = {name: value for name, value in values.items() if chance.random() < 0.5}
    return AggregatesQuery(end - minutes, end, {"action": chance.choice(ACTIONS), **filters}, chance.choice(AGGREGATES))


def _popular(size: int, chance: random.Random) -> int:
    return int(size * chance.random() ** POPULARITY)


def _bound(at_ms: int) -> str:
    """Return the text of a bound of a profile's range."""
    minute, rest_ms = divmod(at_ms, MINUTE_MS)
    seconds, milliseconds = divmod(rest_ms, 1000)
    return f"{format_minute(minute)[:-2]}{seconds:02d}.{milliseconds:03d}"
