"""Faults that are planted into the product to see whether the simulation finds them: each breaks one rule of the protocol.

A plant says what it changes for the time of a run. Where the product would have to be written differently, what differs is
a subclass or a function here; the rest of it stays real.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from agents import protocol
from agents.changelog import OffsetKeys, Sent
from agents.protocol import Batch, CountingProtocol
from sinks import blocks as sink_blocks
from sinks.blocks import Identity, Version
from sinks.loop import SinkLoop
from sinks.postgres import lock_positions, move_positions
from sinks.writers import Written
from streams import transport
from tables import blocks, duplicates, versions
from tables.blocks import BlockKey, OpenBucket, StoredKeys
from tables.duplicates import Submissions
from tables.profiles import INDEX, encode_spans
from tests.simulation.subjects import SUBMISSIONS

Plant = Callable[[], Any]
"""Make a context manager that yields the arguments of a `World`."""


class EarlyAcknowledgment(CountingProtocol):
    """Acknowledges to Faust, and so lets commit, what Kafka has not acknowledged yet."""

    async def _finish(self, state: Any, batch: Batch, sent: dict[str, list[Sent]], before: asyncio.Future[None] | None) -> None:
        if batch.event is not None:
            batch.event.ack()
        await super()._finish(state, batch, sent, before)


@contextmanager
def commit_before_acknowledgments() -> Iterator[dict[str, Any]]:
    """(a) Source offsets are committed before Kafka has acknowledged the changelogs."""
    yield {"protocol_class": EarlyAcknowledgment}


@contextmanager
def through_ignored_by_the_sink() -> Iterator[dict[str, Any]]:
    """(b) Postgres takes whatever version of a block comes last."""

    def last(versions: Iterable[Version]) -> dict[Identity, Version]:
        return {version.identity: version for version in versions}

    def find_nothing_greater(self: Any, cursor: Any, wanted: list[Identity]) -> dict[Identity, tuple[int, Any]]:
        return {identity: (-1, day) for identity, (_, day) in found(self, cursor, wanted).items()}

    def save(self: Any, values: dict[str, Any]) -> None:
        for block in zip(values["partitions"], values["buckets"], values["minutes"], strict=True):
            self.tables.versions.pop(block, None)
        saved(self, values)

    from tests.simulation.postgres import Session

    found, saved = sink_blocks.BlockWriter._find_stored, Session._save_versions
    with (
        patch.object(sink_blocks, "greatest", last),
        patch.object(sink_blocks.BlockWriter, "_find_stored", find_nothing_greater),
        patch.object(Session, "_save_versions", save),
    ):
        yield {}


@contextmanager
def through_ignored_by_the_reader() -> Iterator[dict[str, Any]]:
    """(b) Whoever reads the store takes any version of a block: here the one with the smallest `through`."""

    def oldest(keys: Iterable[bytes]) -> dict[tuple[int, int], bytes]:
        best: dict[tuple[int, int], bytes] = {}
        for raw in keys:
            if len(raw) == blocks.KEY_BYTES:
                minute, bucket, _ = BlockKey.decode(raw)
                best.setdefault((minute, bucket), raw)
        return best

    with patch.object(blocks, "newest", oldest), patch.object(versions, "newest", oldest):
        yield {}


class OffsetsFirst(SinkLoop):
    """Moves the offsets in a transaction of their own, before that of the rows."""

    def _write(self, *, isolate: bool) -> Written:
        batch, written = self._batch, Written()
        connection = self.postgres.connection()
        with connection.transaction(), connection.cursor() as cursor:
            floors = lock_positions(cursor, batch.reached)
            batch.check(floors)
            move_positions(cursor, batch.reached)
        with connection.transaction(), connection.cursor() as cursor:
            for writer in self.writers:
                written.add(writer.write(cursor, batch.due(writer.topic, floors), isolate=isolate))
        return written


@contextmanager
def offsets_outside_the_transaction() -> Iterator[dict[str, Any]]:
    """(c) Postgres' offsets commit apart from the rows."""
    yield {"sink_class": OffsetsFirst}


@contextmanager
def offsets_that_fall() -> Iterator[dict[str, Any]]:
    """Postgres' offsets are set, not raised, and a sink that begins again reads from the start of the changelogs."""
    from tests.simulation.postgres import Server, Session

    with (
        patch.object(Session, "_moved", staticmethod(lambda position, offset: offset)),
        patch.object(Server, "positions", lambda self: {}),
    ):
        yield {}


def without_through(key: bytes) -> bytes:
    """Return the key that blocks would have without `through`."""
    return key[:12]


@contextmanager
def key_without_through() -> Iterator[dict[str, Any]]:
    """(d) A block's key is (minute, bucket), its `through` part of the value: compaction keeps a zombie's older version.

    The bytes stay those of the product, so that every reader still takes the greatest `through` of what it finds. What
    differs is what compaction compares, and that such a design needs no tombstones.
    """

    def emit(self: OpenBucket, through: int, *, stored: StoredKeys) -> list[blocks.Record]:
        return [record for record in emitted(self, through, stored=stored) if record[1] is not None]

    emitted = OpenBucket.emit
    with patch.object(OpenBucket, "emit", emit):
        yield {"compacted_by": without_through}


@contextmanager
def commit_inside_a_bucket() -> Iterator[dict[str, Any]]:
    """Commits are not rounded down: a new epoch begins in the middle of a bucket, and counts the rest of it alone."""
    with patch.object(transport, "BUCKET_OFFSETS", 1):
        yield {}


@contextmanager
def offset_key_that_never_freezes() -> Iterator[dict[str, Any]]:
    """A zombie's store remembers offsets behind records of another owner, and never reads those."""

    def advance(self: OffsetKeys, table: str, partition: int, acknowledged: Iterable[tuple[int, int]]) -> int | None:
        ends = [first + records - 1 for first, records in acknowledged]
        return max(ends, default=None)

    with patch.object(OffsetKeys, "advance", advance):
        yield {}


@contextmanager
def epochs_ignored() -> Iterator[dict[str, Any]]:
    """Acknowledgments of an older epoch count: the span that is read again is committed before it is counted."""

    def ack(self: transport.Consumer, message: Any) -> bool:
        self._acked[message.tp].append(message.offset)
        return True

    with patch.object(transport.Consumer, "ack", ack):
        yield {}


@contextmanager
def holes_ignored() -> Iterator[dict[str, Any]]:
    """A delivery that does not continue the last one is folded all the same."""
    counted = CountingProtocol.count

    async def count(self: CountingProtocol, event: Any) -> None:
        state = self.state(event.message.partition)
        if state.epoch == event.message.epoch:
            state.next = event.message.start
        await counted(self, event)

    with patch.object(CountingProtocol, "count", count):
        yield {}


class BlocksFirst(CountingProtocol):
    """Sends blocks before the rows and dead letters that they count: whoever comes next goes by them, and misses the rest."""

    async def _send(self, state: Any, batch: Batch) -> None:
        await CountingProtocol._send_blocks(self, state.partition, batch)
        await super()._send(state, batch)


@contextmanager
def blocks_before_the_rows() -> Iterator[dict[str, Any]]:
    """A hole that the product had: blocks arrived, the worker died before the rows did, and the source forgot them."""
    yield {"protocol_class": BlocksFirst, "forgets": True}


@contextmanager
def first_start_not_committed() -> Iterator[dict[str, Any]]:
    """A hole that the product had: an owner that recovered before the former one's first blocks arrived.

    It knows of no commit and of no block, takes the shortened source for the first start ever, and counts the rest of a
    bucket under keys that say all of it.
    """

    asked = transport.Consumer.commit_start

    async def commit_start(self: transport.Consumer, tp: Any) -> bool:
        return self.seeks[tp].committed is None or await asked(self, tp)

    with patch.object(transport.Consumer, "commit_start", commit_start):
        yield {"forgets": True}


@contextmanager
def commit_of_a_later_owner_trusted() -> Iterator[dict[str, Any]]:
    """A hole that the product had: an owner paused between its recovery and its seek finds what the next one has committed.

    It begins there, without that one's rows, and takes submissions that were sent again for first ones.
    """
    asked = transport.Consumer.commit_start

    async def commit_start(self: transport.Consumer, tp: Any) -> bool:
        return self.seeks[tp].committed is not None or await asked(self, tp)

    with patch.object(transport.Consumer, "commit_start", commit_start):
        yield {"subject": SUBMISSIONS}


@contextmanager
def duplicates_by_what_was_seen_last() -> Iterator[dict[str, Any]]:
    """A submission is a duplicate if it was ever seen, at a smaller offset or not: read again, each finds itself."""

    def is_repeated(self: Submissions, head: bytes, user: bytes, place: tuple[int, int], cursor: Any) -> bool:
        return any(head in bucket for bucket in self._buckets.values()) or any(True for _ in duplicates._stored(cursor, head))

    with patch.object(Submissions, "_is_repeated", is_repeated):
        yield {"subject": SUBMISSIONS}


@contextmanager
def submissions_on_their_way_forgotten() -> Iterator[dict[str, Any]]:
    """Only the index is asked: what was folded and is not stored yet is not in it."""
    begun = Submissions.judge

    def judge(self: Submissions, *args: Any, **kwargs: Any) -> Any:
        self._buckets = {}
        return begun(self, *args, **kwargs)

    with patch.object(Submissions, "judge", judge):
        yield {"subject": SUBMISSIONS}


@contextmanager
def index_outside_the_changelog() -> Iterator[dict[str, Any]]:
    """The index is kept in RocksDB alone: another owner, or a wiped disk, has none."""

    def without_index(rows: list[bytes]) -> Iterator[tuple[bytes, bytes]]:
        pairs = zip(rows[::2], rows[1::2], strict=True)
        return encoded([part for pair in pairs if not pair[0].startswith(INDEX) for part in pair])

    encoded = encode_spans
    with patch.object(protocol, "encode_spans", without_index):
        yield {"subject": SUBMISSIONS}


@contextmanager
def rows_of_an_offset_in_two_spans() -> Iterator[dict[str, Any]]:
    """A span may end between the rows of one offset: two records then have one key, and compaction keeps one of them."""

    def each_alone(rows: list[bytes]) -> Iterator[tuple[bytes, bytes]]:
        for key, value in zip(rows[::2], rows[1::2], strict=True):
            yield from encoded([key, value])

    encoded = encode_spans
    with patch.object(protocol, "encode_spans", each_alone):
        yield {"subject": SUBMISSIONS}


@contextmanager
def submissions_counted() -> Iterator[dict[str, Any]]:
    """The product as it is, counting submissions."""
    yield {"subject": SUBMISSIONS}


@contextmanager
def nothing_planted() -> Iterator[dict[str, Any]]:
    """The product as it is: the control."""
    yield {}


PLANTS: dict[str, Plant] = {
    plant.__name__: plant
    for plant in (
        commit_before_acknowledgments,
        through_ignored_by_the_sink,
        through_ignored_by_the_reader,
        offsets_outside_the_transaction,
        offsets_that_fall,
        key_without_through,
        commit_inside_a_bucket,
        offset_key_that_never_freezes,
        epochs_ignored,
        holes_ignored,
        blocks_before_the_rows,
        first_start_not_committed,
        commit_of_a_later_owner_trusted,
        duplicates_by_what_was_seen_last,
        submissions_on_their_way_forgotten,
        index_outside_the_changelog,
        rows_of_an_offset_in_two_spans,
    )
}

CONTROLS: dict[str, Plant] = {"": nothing_planted, submissions_counted.__name__: submissions_counted}
"""What must not be found."""
