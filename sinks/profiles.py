"""Write rows of events: one row of Postgres for each row of a profile, identified by partition and source offset.

A second delivery changes nothing: the rows of a span are deleted before they are written, in the same transaction. Spans
may overlap, for a worker that starts again cuts them otherwise, but each holds all rows of its offsets.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from itertools import groupby
from operator import attrgetter
from typing import Any, NamedTuple

import msgspec
import psycopg

from sinks.copy_text import copy, copy_isolated, name_error, render_lines
from sinks.days import DayPartitions
from sinks.queries import column_names, query, table_name
from sinks.writers import DeadLetter, Pending, Place, Record, Written, unreadable
from streams.errors import Reason
from streams.event_time import CANONICAL_LENGTH, format_instant
from streams.topics import Stream, changelog_of
from tables.profiles import INVERSE, Row, RowCodec, SpanKey, decode_span

SPAN_KEY_BYTES = 16
INT64_MAX = (1 << 63) - 1


class Span(NamedTuple):
    """The rows of one changelog record, by rising source offset."""

    partition: int
    key: SpanKey
    day: date
    rows: list[Row]


class Range(NamedTuple):
    """Source offsets of one partition, both inclusive."""

    partition: int
    first: int
    last: int


class RowWriter:
    """The sink of one stream's rows."""

    def __init__(self, stream: Stream, days: DayPartitions) -> None:
        self.stream = stream
        self.days = days
        self.topic = changelog_of(stream.rows_table)
        self._codec = RowCodec(stream)
        self.columns = ("stored_on", "source_partition", "source_offset", *event_columns(stream))
        events = table_name(stream.events_sql)
        self._delete = query("delete_events", events=events)
        self._copy = query("copy_rows", table=events, columns=column_names(self.columns))

    def accept(self, record: Record) -> Pending | None:
        """Return the rows of a span, none where all of them were erased; a record of another kind says nothing."""
        if not record.value or record.key is None or len(record.key) != SPAN_KEY_BYTES:
            return None
        key = SpanKey.decode(record.key)
        try:
            pairs = list(decode_span(record.value))
        except (ValueError, msgspec.MsgspecError) as error:
            return unreadable(record, f"not a span of rows: {type(error).__name__}")
        if max(key) > INT64_MAX:
            return unreadable(record, "not a span of rows: offsets out of range")
        rows, refused = self._decode(record, key, pairs)
        span = Span(record.partition, key, self.days.arrival_day(record.timestamp), rows)
        return Pending(Place(record.topic, record.partition), record.offset, len(pairs), span, tuple(refused))

    def _decode(self, record: Record, key: SpanKey, pairs: list[tuple[bytes, bytes]]) -> tuple[list[Row], list[DeadLetter]]:
        rows: list[Row] = []
        refused: list[DeadLetter] = []
        for row_key, value in pairs:
            try:
                row = self._codec.decode(row_key, value)
                if not key.first <= row.offset <= key.last or len(row.kept) != len(self.stream.kept):
                    raise ValueError("not a row of this span")
                rows.append(row)
            except (ValueError, TypeError, OverflowError, AttributeError, msgspec.MsgspecError, struct.error) as error:
                offset = INVERSE - int.from_bytes(row_key[-8:], "big")
                detail = f"not a row: {type(error).__name__}"
                place = (self.stream.topic, record.partition, offset)
                refused.append(DeadLetter(*place, Reason.BUG, detail, row_key, value))
        return rows, refused

    def prepare(self, connection: psycopg.Connection, pending: Sequence[Pending]) -> None:
        """Make the partitions of the days."""
        self.days.ensure(connection, {item.content.day for item in pending if item.content})

    def write(self, cursor: psycopg.Cursor, pending: Sequence[Pending], *, isolate: bool) -> Written:
        """Replace the rows of the spans that are pending."""
        spans = newest_versions(item.content for item in pending if item.content)
        written = Written()
        if not spans:
            return written
        ranges = [range_._asdict() for range_ in covered(spans)]
        cursor.executemany(self._delete, ranges)
        written.counts[self.stream.events_sql, "deleted"] = max(cursor.rowcount, 0)
        rows = list(distinct(spans))
        lines = render_lines([values_of(span, row) for span, row in rows])
        if isolate:
            self._write_isolated(cursor, rows, lines, written)
        else:
            copy(cursor, self._copy, ["".join(lines)])
        written.counts[self.stream.events_sql, "written"] = len(lines) - len(written.refused)
        return written

    def _write_isolated(self, cursor: psycopg.Cursor, rows: list[tuple[Span, Row]], lines: list[str], written: Written) -> None:
        for index, error in copy_isolated(cursor, self._copy, lines).items():
            span, row = rows[index]
            written.counts[self.stream.events_sql, "refused"] += 1
            written.refused.append(self._refuse(span, row, error))

    def _refuse(self, span: Span, row: Row, error: psycopg.Error) -> DeadLetter:
        """Return a row as the event it was, under the position of the event."""
        event = msgspec.json.encode(self._codec.event_of(row))
        place = (self.stream.topic, span.partition, row.offset)
        return DeadLetter(*place, Reason.REFUSED_BY_POSTGRES, name_error(error), row.user.encode(), event)


def values_of(span: Span, row: Row) -> tuple[Any, ...]:
    """Return a row's values, in the order of the columns; the time to the millisecond, however the event wrote it."""
    instant = row.time if len(row.time) == CANONICAL_LENGTH else format_instant(row.at_ms)
    return span.day, span.partition, row.offset, row.user, instant, row.kind, *row.kept


def event_columns(stream: Stream) -> tuple[str, ...]:
    """Return the columns of a stream's events: each field is named by the last part of its path.

    >>> from streams.topics import USER_TAGS
    >>> event_columns(USER_TAGS)[:4]
    ('cookie', 'occurred_at', 'action', 'country')
    """
    user, kind, *kept = (path.rpartition(".")[2] for path in (stream.key, stream.kind, *stream.kept))
    return (user, "occurred_at", kind, *kept)


def covered(spans: Sequence[Span]) -> Iterator[Range]:
    """Yield the source offsets of *spans*, touching ones joined; what no span covers is in no range."""
    for partition, group in groupby(sorted(spans, key=_ORDER), key=attrgetter("partition")):
        first, last = -1, -2
        for span in group:
            if span.key.first > last + 1:
                if last >= 0:
                    yield Range(partition, first, last)
                first = span.key.first
            last = max(last, span.key.last)
        yield Range(partition, first, last)


def newest_versions(spans: Iterable[Span]) -> list[Span]:
    """Return the spans, of one key the last: another worker's has the same rows, or an erasure has left some out of it."""
    return list({(span.partition, span.key): span for span in spans}.values())


def distinct(spans: Sequence[Span]) -> Iterator[tuple[Span, Row]]:
    """Yield each row once, though spans may overlap: each span holds all rows of its offsets."""
    for _, group in groupby(sorted(spans, key=_ORDER), key=attrgetter("partition")):
        last = -1
        for span in group:
            for row in span.rows:
                if row.offset > last:
                    yield span, row
            last = max(last, span.key.last)


_ORDER = attrgetter("partition", "key")
