"""Write rows of events: those of one event by its partition and source offset, which are their identity.

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
from tables.profiles import INDEX, INVERSE, Row, RowCodec, SpanKey, decode_span

SPAN_KEY_BYTES = 16
INT64_MAX = (1 << 63) - 1
OF_NO_PROFILE = INDEX
"""From this byte on a key is that of no user, whose UTF-8 has none: what tells duplicates begins with it (docs/data.md)."""


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
    """The sink of one stream's rows, one row of Postgres an event; `sinks/events.py` makes several of one."""

    def __init__(self, stream: Stream, days: DayPartitions, columns: tuple[str, ...] = ()) -> None:
        """Describe the sink; *columns* are those of an event, in the order of its values (default: `event_columns`)."""
        self.stream = stream
        self.days = days
        self.topic = changelog_of(stream.rows_table)
        self.codec = RowCodec(stream)
        self.columns = ("stored_on", "source_partition", "source_offset", *(columns or event_columns(stream)))
        self.events = table_name(stream.events_sql)
        self._delete = query("delete_events", events=self.events)
        self._copy = query("copy_rows", table=self.events, columns=column_names(self.columns))

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
        return Pending(Place(record.topic, record.partition), record.offset, self.count(rows), span, tuple(refused))

    def check(self, row: Row) -> None:
        """Refuse a row that cannot be written.

        Raises:
            ValueError, msgspec.MsgspecError: what it keeps is not what the stream declares.
        """

    def count(self, rows: Sequence[Row]) -> int:
        """Return how many rows of Postgres these are."""
        return len(rows)

    def _decode(self, record: Record, key: SpanKey, pairs: list[tuple[bytes, bytes]]) -> tuple[list[Row], list[DeadLetter]]:
        rows: list[Row] = []
        refused: list[DeadLetter] = []
        for row_key, value in pairs:
            if row_key[:1] >= OF_NO_PROFILE:
                continue
            try:
                row = self.codec.decode(row_key, value)
                if not key.first <= row.offset <= key.last or len(row.kept) != len(self.stream.kept):
                    raise ValueError("not a row of this span")
                self.check(row)
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
        if spans:
            gone, report = self.delete(cursor, list(covered(spans)))
            written.counts[self.stream.events_sql, "deleted"] = gone
            found = list(distinct(spans))
            refused = self._insert(cursor, found, written, isolate=isolate)
            kept = [pair for index, pair in enumerate(found) if index not in refused]
            written.counts[self.stream.events_sql, "written"] = self.count([row for _, row in kept])
            self.finish(cursor, spans, kept, report)
        return written

    def delete(self, cursor: psycopg.Cursor, ranges: Sequence[Range]) -> tuple[int, Any]:
        """Delete the rows of *ranges*; return how many, and what `finish` wants to know of them."""
        cursor.executemany(self._delete, [range_._asdict() for range_ in ranges])
        return max(cursor.rowcount, 0), None

    def render(self, found: Sequence[tuple[Span, Row]]) -> list[str]:
        """Return the lines of COPY of each event as one text: they are written together, or none is."""
        return render_lines([values_of(span, row) for span, row in found])

    def pieces(self, found: Sequence[tuple[Span, Row]]) -> Iterable[slice]:
        """Yield which events go into one COPY."""
        yield slice(0, len(found))

    def finish(self, cursor: psycopg.Cursor, spans: Sequence[Span], kept: Sequence[tuple[Span, Row]], report: Any) -> None:
        """Do what else belongs into the transaction of the rows of *kept*; nothing for rows that are events."""

    def _insert(
        self, cursor: psycopg.Cursor, found: list[tuple[Span, Row]], written: Written, *, isolate: bool
    ) -> dict[int, psycopg.Error]:
        """Write the events, and return the error of each that was refused, by its index."""
        texts = self.render(found)
        if not found:
            return {}
        if not isolate:
            for piece in self.pieces(found):
                copy(cursor, self._copy, ["".join(texts[piece])])
                written.copies.append((self.stream.events_sql, self.count([row for _, row in found[piece]])))
            return {}
        refused = copy_isolated(cursor, self._copy, texts)
        for index, error in refused.items():
            span, row = found[index]
            written.counts[self.stream.events_sql, "refused"] += 1
            written.refused.append(self._refuse(span, row, error))
        return refused

    def _refuse(self, span: Span, row: Row, error: psycopg.Error) -> DeadLetter:
        """Return a row as the event it was, under the position of the event."""
        event = msgspec.json.encode(self.codec.event_of(row))
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
