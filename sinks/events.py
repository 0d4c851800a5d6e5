"""Write the rows of submissions: one row of Postgres a datapoint, those of a submission together or not at all.

In the transaction of the rows the transaction log says DONE (`sinks/submissions.py`), the reports count their values
(`sinks/reports.py`), and `forward_positions` says how far the rows are written. A second delivery changes nothing: the rows of
a span are deleted and written again, and what the reports count is the difference.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypedDict

import msgspec
import psycopg

from sinks.copy_text import NULL, escape_all, render_line
from sinks.days import DayPartitions
from sinks.profiles import Range, RowWriter, Span
from sinks.queries import event_query
from sinks.reports import REPORTED, Counts, count_values, read_gone, save_counts
from sinks.submissions import Submission, say_done
from streams.early_time import true_time
from streams.topics import Stream
from tables.profiles import Row

COLUMNS = (
    "user_id", "occurred_at", "kind", "product", "event_id", "source", "position", "datapoint", "value", "properties",
)  # fmt: skip
MICROSECOND_LENGTH = len("2022-03-22T12:15:00.000000")
"""Postgres rounds further digits, maybe up into the next minute: they are cut off."""


class Datapoint(TypedDict):
    """One datapoint, as a row holds it."""

    key: str
    value: str


class Content(NamedTuple):
    """What is kept of a submission, by `streams.topics.EVENTS`, in its order."""

    id: str
    product: str
    source: str
    properties: str
    data: list[Datapoint]


class EventWriter(RowWriter):
    """The sink of the rows of `events.v1`."""

    def __init__(self, stream: Stream, days: DayPartitions, *, copy_rows_max: int | None = None) -> None:
        """Describe the sink.

        Args:
            copy_rows_max: how many rows one COPY may have; a submission that has more has one of its own. None: all in one.
        """
        super().__init__(stream, days, COLUMNS)
        self._copy_rows_max = copy_rows_max
        self._delete_datapoints = event_query("delete_datapoints", events=self.events)
        self._move_through = event_query("move_rows_through")

    def check(self, row: Row) -> None:
        msgspec.convert(row.kept, Content)

    def count(self, rows: Sequence[Row]) -> int:
        return sum(len(content_of(row).data) for row in rows)

    def render(self, found: Sequence[tuple[Span, Row]]) -> list[str]:
        return [render_submission(span, row) for span, row in found]

    def pieces(self, found: Sequence[tuple[Span, Row]]) -> Iterator[slice]:
        return cut([len(content_of(row).data) for _, row in found], self._copy_rows_max)

    def delete(self, cursor: psycopg.Cursor, ranges: Sequence[Range]) -> tuple[int, Counts]:
        """Delete the rows of *ranges*; return how many, and what the reports have counted of them."""
        total, counts = 0, Counts()
        for range_ in ranges:
            gone, values = read_gone(cursor.execute(self._delete_datapoints, reported_in(range_)))
            total += gone
            counts.update(values)
        return total, counts

    def finish(self, cursor: psycopg.Cursor, spans: Sequence[Span], kept: Sequence[tuple[Span, Row]], report: Any) -> None:
        """Count what came and what went, say DONE, and note how far the rows are written."""
        counts = Counts()
        for span, row in kept:
            data = ((each["key"], each["value"]) for each in content_of(row).data)
            _, at_ms = true_time(row.time, row.at_ms, content_of(row).properties)
            count_values(counts, data, partition=span.partition, at_ms=at_ms)
        counts.subtract(report)
        save_counts(cursor, counts, today=self.days.arrival_day(-1))
        say_done(cursor, [submission_of(span.partition, row) for span, row in kept])
        throughs: dict[int, int] = {}
        for span in spans:
            throughs[span.partition] = max(span.key.last, throughs.get(span.partition, -1))
        values = {"topic": self.topic, "partitions": list(throughs), "throughs": list(throughs.values())}
        cursor.execute(self._move_through, values)


def content_of(row: Row) -> Content:
    """Return what a row keeps, by name."""
    return Content(*row.kept)


def submission_of(partition: int, row: Row) -> Submission:
    """Return what the transaction log says of a row's submission."""
    content = content_of(row)
    return Submission(partition, row.offset, content.id, row.user, row.kind, content.product, len(content.data))


def render_submission(span: Span, row: Row) -> str:
    """Return the lines of COPY of a submission, one a datapoint; its properties stand in the first only."""
    content = content_of(row)
    time, _ = true_time(row.time, row.at_ms, content.properties)
    instant = time if len(time) <= MICROSECOND_LENGTH + 1 else time[:MICROSECOND_LENGTH] + "Z"
    user = row.user or None
    head = render_line(
        (span.day, span.partition, row.offset, user, instant, row.kind, content.product, content.id, content.source)
    )[:-1]
    keys = escape_all([each["key"] for each in content.data])
    values = escape_all([each["value"] for each in content.data])
    (properties,) = escape_all([content.properties])
    return "".join(
        f"{head}\t{position}\t{key}\t{value}\t{NULL if position else properties}\n"
        for position, (key, value) in enumerate(zip(keys, values, strict=True))
    )


def reported_in(range_: Range) -> dict[str, Any]:
    """Return the values of the statement that deletes a range."""
    return {**range_._asdict(), "reported": list(REPORTED)}


def cut(sizes: Sequence[int], rows_max: int | None) -> Iterator[slice]:
    """Yield which submissions of these sizes go into one COPY: in order, whole, and at most *rows_max* rows if several.

    >>> [(piece.start, piece.stop) for piece in cut([1] * 5, 2)]
    [(0, 2), (2, 4), (4, 5)]
    >>> [(piece.start, piece.stop) for piece in cut([3, 1, 1], 2)]
    [(0, 1), (1, 3)]
    """
    start, rows = 0, 0
    for index, size in enumerate(sizes):
        if rows_max is not None and index > start and rows + size > rows_max:
            yield slice(start, index)
            start, rows = index, 0
        rows += size
    yield slice(start, len(sizes))
