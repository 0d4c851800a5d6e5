"""Read what a query asks for, or say in one sentence what is wrong with it. Pure: no store, no socket."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import parse_qsl

from streams.errors import TallyError
from streams.event_time import MINUTE_MS, parse_instant
from streams.topics import Stream
from tables.profiles import NEWEST_MAX

MINUTES_MAX = 10
FIELDS_MAX = 200
"""Parameters of one query, so that a repeated aggregate stays an answer and not a burden."""
COUNT = "count"
_INSTANT = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,3}))?", re.ASCII)
_WHOLE = re.compile(r"\d+", re.ASCII)
LIMIT_DIGITS_MAX = 9
"""Digits of a limit that are looked at: any longer number is above `NEWEST_MAX`, and Python refuses very long ones."""
ALL_TIMES = (0, 1 << 62)
OFFSET_MAX = (1 << 63) - 1
OFFSET_DIGITS_MAX = 19


class BadQueryError(TallyError):
    """A query breaks the contract; its message goes to whoever asked."""


@dataclass(frozen=True, slots=True)
class ProfileQuery:
    """The newest of one user: instants in [start_ms, end_ms), at most `limit` of each kind."""

    user: str
    start_ms: int
    end_ms: int
    limit: int


@dataclass(frozen=True, slots=True)
class AggregatesQuery:
    """Totals by minute in [start, end), minutes since 1970.

    Attributes:
        filters: dimension to value, in the order of the stream's declaration; the kind comes first.
        aggregates: what to show, lower case, in the order asked; may repeat.
    """

    start: int
    end: int
    filters: Mapping[str, str]
    aggregates: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EventAt:
    """Where is the event of this position of the source topic?"""

    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class EventOf:
    """Where are the events of this user and millisecond?"""

    user: str
    at_ms: int


def parse_event(stream: Stream, query: str, *, partitions: int) -> EventAt | EventOf:
    """Return the question where an event is: by position, or by user and event time.

    Raises:
        BadQueryError: what is missing or malformed.
    """
    return event_of(stream, fields_of(query), partitions=partitions)


def event_of(stream: Stream, fields: Mapping[str, Sequence[str]], *, partitions: int) -> EventAt | EventOf:
    """Return the question of parameters.

    Raises:
        BadQueryError: what is missing or malformed.
    """
    at, of = {"partition", "offset"}, {stream.key, stream.time}
    if fields.keys() == at:
        return EventAt(number_of(fields, "partition", partitions - 1), number_of(fields, "offset", OFFSET_MAX))
    if fields.keys() != of:
        raise BadQueryError(f"partition and offset are needed, or {stream.key} and {stream.time}, and nothing else")
    text = single_of(fields, stream.time)
    try:
        return EventOf(single_of(fields, stream.key), parse_instant(text))
    except ValueError as error:
        raise BadQueryError(f"{stream.time} is {text!r}: {error}") from error


def number_of(fields: Mapping[str, Sequence[str]], name: str, greatest: int) -> int:
    """Return a whole number from 0 to *greatest* that stands once.

    Raises:
        BadQueryError: it does not.
    """
    text = single_of(fields, name)
    if not _WHOLE.fullmatch(text) or len(text) > OFFSET_DIGITS_MAX or int(text) > greatest:
        raise BadQueryError(f"{name} is {text[:40]!r}: a whole number from 0 to {greatest} is needed")
    return int(text)


def parse_profile(stream: Stream, user: str, query: str) -> ProfileQuery:
    """Return the query of a profile.

    Raises:
        BadQueryError: what is missing or malformed.
    """
    return _profile_of(user, fields_of(query))


def parse_timeline(user: str, query: str) -> ProfileQuery:
    """Return the query of a timeline: that of a profile, of all times where no range is given.

    Raises:
        BadQueryError: what is malformed.
    """
    fields = fields_of(query)
    return _profile_of(user, fields) if "time_range" in fields else _profile_of(user, fields, ALL_TIMES)


def _profile_of(user: str, fields: Mapping[str, Sequence[str]], times: tuple[int, int] | None = None) -> ProfileQuery:
    start_ms, end_ms = times or _time_range(fields)
    text = single_of(fields, "limit", default=str(NEWEST_MAX))
    if not _WHOLE.fullmatch(text):
        raise BadQueryError(f"limit is {text!r}: a whole number from 0 is needed")
    return ProfileQuery(user, start_ms, end_ms, min(int(text.lstrip("0")[:LIMIT_DIGITS_MAX] or 0), NEWEST_MAX))


def parse_aggregates(stream: Stream, query: str, *, all_kinds: bool = False) -> AggregatesQuery:
    """Return the query of aggregates; without a kind it is of all kinds, where *all_kinds* may be asked for.

    Raises:
        BadQueryError: what is missing or malformed.
    """
    fields = fields_of(query)
    start_ms, end_ms = _time_range(fields)
    if start_ms % MINUTE_MS or end_ms % MINUTE_MS:
        raise BadQueryError("both ends of time_range are full minutes")
    if end_ms - start_ms > MINUTES_MAX * MINUTE_MS:
        raise BadQueryError(f"time_range is at most {MINUTES_MAX} minutes long")
    filters = {name: single_of(fields, name) for name in stream.dimensions if name in fields}
    kind = None if all_kinds and stream.kind not in fields else single_of(fields, stream.kind)
    if kind is not None and kind not in stream.kinds:
        raise BadQueryError(f"{stream.kind} is {kind!r}: one of {', '.join(stream.kinds)} is needed")
    return AggregatesQuery(start_ms // MINUTE_MS, end_ms // MINUTE_MS, filters, _aggregates(stream, fields))


def fields_of(query: str) -> dict[str, list[str]]:
    """Return the values of each parameter of a query string.

    Raises:
        BadQueryError: it is not UTF-8, or has too many.
    """
    try:
        pairs = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=FIELDS_MAX)
    except ValueError as error:
        raise BadQueryError("the query is not UTF-8, or has too many parameters") from error
    fields: dict[str, list[str]] = {}
    for name, value in pairs:
        key, text = "aggregates" if name == "aggregates[]" else name, value
        if name == "time_range" and "?" in value:  # "?time_range=…?limit=…" stands in the task's own text
            text, _, rest = value.partition("?")
            key_of_rest, _, value_of_rest = rest.partition("=")
            fields.setdefault(key_of_rest, []).append(value_of_rest)
        fields.setdefault(key, []).append(text)
    return fields


def single_of(fields: Mapping[str, Sequence[str]], name: str, *, default: str | None = None) -> str:
    """Return the one value of a parameter, or *default* where it has none.

    Raises:
        BadQueryError: it has none and needs one, or has several.
    """
    values = fields.get(name, ())
    if not values and default is not None:
        return default
    if len(values) != 1:
        raise BadQueryError(f"{name} is needed once; {len(values)} were given")
    return values[0]


def _time_range(fields: Mapping[str, Sequence[str]]) -> tuple[int, int]:
    text = single_of(fields, "time_range")
    ends = text.split("_")
    if len(ends) != 2:
        raise BadQueryError(f"time_range is {text!r}: two instants joined by one _ are needed")
    start_ms, end_ms = (_instant(end) for end in ends)
    if start_ms > end_ms:
        raise BadQueryError("time_range ends before it starts")
    return start_ms, end_ms


def _instant(text: str) -> int:
    match = _INSTANT.fullmatch(text)
    try:
        if match is None:
            raise ValueError("not of the form")
        seconds = datetime.strptime(match[1], "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC).timestamp()
    except ValueError as error:
        raise BadQueryError(f"time_range holds {text!r}: YYYY-MM-DDTHH:MM:SS[.fff] in UTC is needed") from error
    return int(seconds) * 1000 + int((match[2] or "").ljust(3, "0"))


def _aggregates(stream: Stream, fields: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    names = tuple(name.strip().lower() for text in fields.get("aggregates", ()) for name in text.split(",") if text)
    known = aggregate_names(stream)
    if not names:
        raise BadQueryError(f"aggregates is needed: one or more of {', '.join(known).upper()}")
    for name in names:
        if name not in known:
            raise BadQueryError(f"aggregates has {name!r}: {', '.join(known).upper()} are known")
    return names


def aggregate_names(stream: Stream) -> list[str]:
    """Return what may be asked, in the order that totals have.

    >>> from streams.topics import USER_TAGS
    >>> aggregate_names(USER_TAGS)
    ['count', 'sum_price']
    """
    return [COUNT, *(f"sum_{name}" for name in stream.sums)]
