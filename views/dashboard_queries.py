"""Read what the page asks for, choose where the answer comes from, or say in one sentence what is wrong. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from streams.event_time import parse_instant
from streams.rollups import DAY_S, HOUR_S
from streams.schemas import TEXT_LENGTH_MAX
from streams.topics import STREAMS, USER_TAGS, Stream
from tables.profiles import NEWEST_MAX
from views.queries import BadQueryError, EventAt, EventOf, event_of, fields_of, number_of, single_of

MINUTE_S = 60
MINUTES_RANGE_S_MAX = 6 * HOUR_S
"""Up to here a point is a minute; the tables answer no longer range."""
HOURS_RANGE_S_MAX = 31 * DAY_S
RANGE_S_MAX = 3_660 * DAY_S
RANGE_S = HOUR_S
"""Of a question that names no start."""
ROWS_MAX = 1_000
ROWS = 20
USER_EVENTS = 50
LETTERS_RANGE_S = DAY_S
REASON_LENGTH_MAX = 100


class Source(StrEnum):
    """Where an answer comes from."""

    TABLES = "tables"
    POSTGRES = "postgres"


class Form(StrEnum):
    """What an answer is written as."""

    JSON = "json"
    CSV = "csv"


@dataclass(frozen=True, slots=True, kw_only=True)
class CellsQuery:
    """Count and sums of the cells of event times in [start_s, end_s), seconds since 1970.

    Attributes:
        filters: dimension to value.
        by: the dimension that is told apart; None: all together.
        forced: the source that was asked for.
        rows: how many values of `by`, at most.
    """

    start_s: int
    end_s: int
    filters: Mapping[str, str]
    by: str | None
    forced: Source | None
    form: Form
    rows: int

    @property
    def needed(self) -> set[str]:
        """Dimensions that the answer depends on."""
        return {*self.filters, *([] if self.by is None else [self.by])}


@dataclass(frozen=True, slots=True)
class Choice:
    """Where an answer comes from, and the length of its steps, seconds; the range in whole steps."""

    source: Source
    step_s: int
    start_s: int
    end_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LettersQuery:
    """Dead letters that were recorded in [start_s, end_s); *reason* None: all."""

    start_s: int
    end_s: int
    reason: str | None
    form: Form
    samples: bool


@dataclass(frozen=True, slots=True)
class UserQuery:
    """The newest events of one user, at most *limit* of each kind."""

    user: str
    limit: int
    form: Form


def parse_series(stream: Stream, query: str, *, now_s: int) -> CellsQuery:
    """Return the question for points over time.

    Raises:
        BadQueryError: what is missing or malformed.
    """
    fields = _known(query, {"from", "to", "by", "source", "format", *stream.dimensions})
    by = single_of(fields, "by", default="") or None
    if by is not None:
        _check_dimension(stream, "by", by)
    return _cells(stream, fields, now_s=now_s, by=by, rows=0)


def parse_top(stream: Stream, query: str, *, now_s: int) -> CellsQuery:
    """Return the question for the values of a dimension that count most.

    Raises:
        BadQueryError: what is missing or malformed.
    """
    fields = _known(query, {"from", "to", "dimension", "n", "source", "format", *stream.dimensions})
    dimension = single_of(fields, "dimension")
    _check_dimension(stream, "dimension", dimension)
    rows = number_of(fields, "n", ROWS_MAX) if "n" in fields else ROWS
    return _cells(stream, fields, now_s=now_s, by=dimension, rows=max(1, rows))


def parse_user(stream: Stream, query: str) -> UserQuery:
    """Return the question for one user's events.

    Raises:
        BadQueryError: what is missing or malformed.
    """
    fields = _known(query, {stream.key, "limit", "format"})
    limit = number_of(fields, "limit", NEWEST_MAX) if "limit" in fields else USER_EVENTS
    return UserQuery(_text(stream.key, single_of(fields, stream.key)), limit, _form(fields))


def parse_where(query: str, *, partitions: int) -> tuple[Stream, EventAt | EventOf, str]:
    """Return the stream and the question where an event of it is, and the event time as that has it.

    Raises:
        BadQueryError: what is missing or malformed.
    """
    fields = fields_of(query)
    topic = single_of({"topic": fields.pop("topic", [USER_TAGS.topic])}, "topic")
    stream = next((stream for stream in STREAMS if stream.topic == topic), None)
    if stream is None:
        known = ", ".join(stream.topic for stream in STREAMS)
        raise BadQueryError(f"topic is {topic[:40]!r}: one of {known} is needed")
    event = event_of(stream, fields, partitions=partitions)
    return stream, event, "" if isinstance(event, EventAt) else fields[stream.time][0]


def parse_letters(query: str, *, now_s: int) -> LettersQuery:
    """Return the question for dead letters.

    Raises:
        BadQueryError: what is missing or malformed.
    """
    fields = _known(query, {"from", "to", "reason", "format", "of"})
    start_s, end_s = _range(fields, now_s=now_s, default_s=LETTERS_RANGE_S)
    reason = single_of(fields, "reason", default="") or None
    if reason is not None and (len(reason) > REASON_LENGTH_MAX or "\0" in reason):
        raise BadQueryError("reason is no reason code")
    part = _one_of(fields, "of", ("groups", "samples"))
    return LettersQuery(start_s=start_s, end_s=end_s, reason=reason, form=_form(fields), samples=part == "samples")


def choose(query: CellsQuery, *, now_s: int, horizon_s: int) -> Choice:
    """Return where the answer comes from: the tables for a short range that they surely hold whole, else Postgres.

    They go by arrival and questions by event time; what happened within the horizon has arrived within it.

    Raises:
        BadQueryError: the source that was asked for has no such answer.
    """
    length_s = query.end_s - query.start_s
    held = length_s <= MINUTES_RANGE_S_MAX and query.start_s >= now_s - horizon_s
    if query.forced is Source.TABLES and not held:
        raise BadQueryError(
            f"the tables answer at most {MINUTES_RANGE_S_MAX // HOUR_S} h, of the last {horizon_s // HOUR_S} h: ask postgres"
        )
    if held and query.forced is not Source.POSTGRES:
        return in_steps(query, Source.TABLES, MINUTE_S)
    if length_s <= MINUTES_RANGE_S_MAX:
        return in_steps(query, Source.POSTGRES, MINUTE_S)
    return in_steps(query, Source.POSTGRES, HOUR_S if length_s <= HOURS_RANGE_S_MAX else DAY_S)


def in_steps(query: CellsQuery, source: Source, step_s: int) -> Choice:
    """Return the range in whole steps: those that it touches."""
    start_s = query.start_s // step_s * step_s
    return Choice(source, step_s, start_s, max(-(-query.end_s // step_s) * step_s, start_s + step_s))


def format_second(at_s: float) -> str:
    """Return an instant as every answer of the page writes it.

    >>> format_second(1_646_092_801)
    '2022-03-01T00:00:01Z'
    """
    return f"{datetime.fromtimestamp(int(at_s), UTC):%Y-%m-%dT%H:%M:%SZ}"


def _cells(stream: Stream, fields: Mapping[str, Sequence[str]], *, now_s: int, by: str | None, rows: int) -> CellsQuery:
    start_s, end_s = _range(fields, now_s=now_s, default_s=RANGE_S)
    filters = {name: _text(name, single_of(fields, name)) for name in stream.dimensions if name in fields}
    kind = filters.get(stream.kind)
    if kind is not None and kind not in stream.kinds:
        raise BadQueryError(f"{stream.kind} is {kind!r}: one of {', '.join(stream.kinds)} is known")
    source = _one_of(fields, "source", ("", *Source))
    return CellsQuery(
        start_s=start_s,
        end_s=end_s,
        filters=filters,
        by=by,
        forced=Source(source) if source else None,
        form=_form(fields),
        rows=rows,
    )


def _known(query: str, names: Iterable[str]) -> dict[str, list[str]]:
    fields = fields_of(query)
    unknown = sorted(set(fields) - set(names))
    if unknown:
        raise BadQueryError(f"{unknown[0][:40]!r} is no parameter; known are {', '.join(sorted(names))}")
    return fields


def _range(fields: Mapping[str, Sequence[str]], *, now_s: int, default_s: int) -> tuple[int, int]:
    end_s = _instant(fields, "to", default_s=now_s, up=True)
    start_s = _instant(fields, "from", default_s=max(0, end_s - default_s), up=False)
    if start_s >= end_s:
        raise BadQueryError("from is not before to")
    if end_s - start_s > RANGE_S_MAX:
        raise BadQueryError(f"from and to are at most {RANGE_S_MAX // DAY_S} days apart")
    return start_s, end_s


def _instant(fields: Mapping[str, Sequence[str]], name: str, *, default_s: int, up: bool) -> int:
    if name not in fields:
        return default_s
    text = single_of(fields, name)
    try:
        at_ms = parse_instant(text)
    except ValueError as error:
        raise BadQueryError(f"{name} is {text[:40]!r}: YYYY-MM-DDTHH:MM:SSZ is needed") from error
    return -(-at_ms // 1000) if up else at_ms // 1000


def _text(name: str, value: str) -> str:
    if "\0" in value or len(value) > TEXT_LENGTH_MAX:
        raise BadQueryError(f"{name} has the character NUL, or more than {TEXT_LENGTH_MAX} characters: no event has")
    return value


def _check_dimension(stream: Stream, name: str, value: str) -> None:
    if value not in stream.dimensions:
        raise BadQueryError(f"{name} is {value[:40]!r}: one of {', '.join(stream.dimensions)} is needed")


def _form(fields: Mapping[str, Sequence[str]]) -> Form:
    return Form(_one_of(fields, "format", tuple(Form)))


def _one_of(fields: Mapping[str, Sequence[str]], name: str, known: Sequence[str]) -> str:
    value = single_of(fields, name, default=known[0])
    if value not in known:
        raise BadQueryError(f"{name} is {value[:40]!r}: one of {', '.join(filter(None, known))} is known")
    return value
