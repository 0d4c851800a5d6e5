"""Keep the transaction log, `tally.txn_log`: what became of each submission, one row each, without what it held.

Three write it, in any order, each in the transaction of its offsets. Who reads the source topic says PENDING and counts
attempts (`SubmissionWriter`); who writes the rows says DONE (`say_done`); who writes dead letters says FAILED (`say_failed`).
DONE is never taken back, and PENDING is said of nothing that has another state, so the order does not matter and a second
delivery changes nothing. A submission sent again has no row of its own: it is one more attempt.

Nothing stays PENDING: once the rows of a later place of its partition are written its own will not come, and after `GRACE_S`,
in which a dead letter may still come, it is FAILED (`settle`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import psycopg
from psycopg import sql

from sinks.queries import event_query
from sinks.writers import Pending, Place, Record, Written
from streams.clock import Clock
from streams.schemas import TEXT_LENGTH_MAX
from streams.topics import Stream, changelog_of

log = logging.getLogger(__name__)

TABLE = "txn_log"
GRACE_S = 60.0
UNWRITTEN = "unwritten: later submissions are written and this one is not, as its record or its rows are gone"
STATEMENT_ROWS_MAX = 10_000
"""Of rows that one statement ends or forgets: millions in one would take longer than a statement may, and for ever."""
_PERSON = b"tally-submitted"


class Submission(NamedTuple):
    """One submission, by its place in the source topic."""

    partition: int
    offset: int
    id: str
    user: str
    kind: str
    product: str
    datapoints: int

    @property
    def identity(self) -> UUID:
        """What the same submission sent again shares, in the same partition; ids are unique to a user."""
        digest = blake2b(f"{self.user}\0{self.id}".encode(), digest_size=16, person=_PERSON)
        return UUID(bytes=digest.digest())


class _Head(msgspec.Struct):
    """What is read of a record: whether the rest is valid is for the worker to say."""

    id: str
    user: str
    kind: str
    product: str
    data: list[msgspec.Raw] = []


_decode = msgspec.json.Decoder(_Head).decode


def read_submission(value: bytes | None, *, partition: int, offset: int) -> Submission | None:
    """Return the submission of a record; None where it has no id that could be asked for."""
    try:
        head = _decode(value or b"")
        texts = (head.id, head.user, head.kind, head.product)
        encoded = "".join(texts).encode()
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    if b"\0" in encoded or max(map(len, texts)) > TEXT_LENGTH_MAX:
        return None
    return Submission(partition, offset, *texts, len(head.data))


class SubmissionWriter:
    """The sink that reads the source topic itself: whatever is in Kafka is in the log, however far worker and rows are."""

    def __init__(self, stream: Stream, clock: Clock) -> None:
        self.topic = stream.topic
        self._clock = clock

    def accept(self, record: Record) -> Pending | None:
        """Return the submission of a record; one that cannot be read becomes a dead letter of the worker."""
        submission = read_submission(record.value, partition=record.partition, offset=record.offset)
        if submission is None:
            return None
        now_ms = self._clock.now_ms()
        at_ms = record.timestamp if 0 <= record.timestamp <= now_ms else now_ms
        return Pending(Place(record.topic, record.partition), record.offset, 1, (submission, at_ms))

    def prepare(self, connection: psycopg.Connection, pending: Sequence[Pending]) -> None:
        """Do nothing: the table has no partitions."""

    def write(self, cursor: psycopg.Cursor, pending: Sequence[Pending], *, isolate: bool) -> Written:
        """Say PENDING of what is new, and count the attempts."""
        written = Written()
        if pending:
            contents = [item.content for item in pending]
            times_ms = [at_ms for _, at_ms in contents]
            submissions = [submission for submission, _ in contents]
            values = _columns(submissions, [submission.identity for submission in submissions])
            cursor.execute(event_query("log_pending"), {**values, "times_ms": times_ms})
            written.counts[TABLE, "written"] = cursor.rowcount
        return written


def say_done(cursor: psycopg.Cursor, submissions: Iterable[Submission]) -> None:
    """Say that the rows of *submissions* are written, in the transaction of the rows."""
    newest = {(submission.identity, submission.partition): submission for submission in submissions}
    if newest:
        values = _columns(list(newest.values()), [identity for identity, _ in newest])
        cursor.execute(event_query("log_done"), values)


def say_failed(cursor: psycopg.Cursor, failed: Iterable[tuple[Submission, int, str]]) -> None:
    """Say why there will be no rows of submissions, but for what an earlier attempt has brought.

    Args:
        failed: each with the instant, milliseconds since 1970, and the reason.
    """
    first: dict[tuple[UUID, int], tuple[Submission, int, str]] = {}
    for each in sorted(failed, key=lambda each: each[0].offset):
        first.setdefault((each[0].identity, each[0].partition), each)
    if first:
        submissions, times_ms, errors = map(list, zip(*first.values(), strict=True))
        values = {**_columns(submissions, [identity for identity, _ in first]), "times_ms": times_ms, "errors": errors}
        cursor.execute(event_query("log_failed"), values)


def settle(connection: psycopg.Connection, stream: Stream) -> int:
    """End what cannot be written any more, and return how many datapoints still wait to be."""
    values = {"topic": changelog_of(stream.rows_table), "grace_s": GRACE_S, "error": UNWRITTEN}
    if ended := _in_pieces(connection, event_query("log_unwritten"), values):
        log.warning("%d submissions were not written: their rows will not come any more", ended)
    row = connection.execute(event_query("queued_rows")).fetchone()
    return int(row[0]) if row else 0


def forget(connection: psycopg.Connection, *, kept_from_ms: int) -> None:
    """Remove what last changed before an instant."""
    _in_pieces(connection, event_query("forget_submissions"), {"kept_from_ms": kept_from_ms})


def _in_pieces(connection: psycopg.Connection, statement: sql.Composed, values: dict[str, Any]) -> int:
    """Execute a statement until it finds no more, each time a transaction of its own; return how many rows it changed."""
    total, limited = 0, values | {"rows_max": STATEMENT_ROWS_MAX}
    while rows := connection.execute(statement, limited).rowcount:
        total += rows
    return total


def _columns(submissions: Sequence[Submission], identities: list[UUID]) -> dict[str, list[Any]]:
    """Return the arrays of the statements."""
    return {
        "identities": identities,
        "partitions": [submission.partition for submission in submissions],
        "ids": [submission.id for submission in submissions],
        "users": [submission.user or None for submission in submissions],
        "kinds": [submission.kind for submission in submissions],
        "products": [submission.product for submission in submissions],
        "datapoints": [submission.datapoints for submission in submissions],
        "offsets": [submission.offset for submission in submissions],
    }
