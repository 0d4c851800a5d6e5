"""Deliver source topics to Faust in batches: one message per fetched partition, its value a list of runs.

Faust's own path costs 70 µs a record before an agent sees it. Three rules keep the batch path exact where the first tries
lost data (docs/decisions/0003):

- `_position[tp]` is the only authority on what comes next. A fetch that was not read on from there is dropped, and the
  partition is sought again; nothing is delivered while the position is unset.
- Every seek begins a new *epoch*; an acknowledgment of an older one is ignored.
- What is committed is the contiguous acknowledged position, rounded down to the start of a bucket.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import faust
from faust.exceptions import ConsumerNotStarted
from faust.transport.drivers import TRANSPORTS
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from faust.types.tuples import ConsumerMessage

from streams import runs as runs_
from streams.clock import SYSTEM_CLOCK
from streams.runs import BATCH_TOPICS, Run
from streams.topics import BUCKET_OFFSETS

log = logging.getLogger(__name__)

SCHEME = "tally"
IDLE_S = 0.005
RESTORED_RECORDS_MAX = 16
"""Records of one poll while changelogs are read: enough to be decompressed while those before them are written."""


@dataclass(frozen=True, slots=True)
class Seek:
    """Where a partition was sought to, and why there.

    Attributes:
        epoch: number of the seek; deliveries carry it.
        position: offset that is read on from.
        committed: what the group had committed, None for nothing yet.
        log_start: first offset that the topic still held.
    """

    epoch: int
    position: int
    committed: int | None
    log_start: int


class BatchMessage(ConsumerMessage):
    """What Faust carries to the agent: `value` is a list of runs, `offset` the last one that they cover."""

    __slots__ = ("epoch", "start")

    start: int
    epoch: int


class BatchSchema(faust.Schema):
    """Pass runs through undecoded."""

    def loads_key(self, app: Any, message: Any, *, loads: Any = None, serializer: Any = None) -> None:
        return None

    def loads_value(self, app: Any, message: Any, *, loads: Any = None, serializer: Any = None) -> list[Run]:
        runs: list[Run] = message.value
        return runs


class ReadOffsets(defaultdict[TP, Any]):
    """Faust's memory of what it has read, blind for batch topics.

    Faust writes it when the batch that it was blocked on gets through, even when a seek moved back meanwhile, and then drops
    what is read again ("DROPPED MESSAGE ROFF").
    """

    def __getitem__(self, tp: TP) -> Any:
        return None if tp.topic in BATCH_TOPICS else super().__getitem__(tp)


class Consumer(driver.Consumer):
    """Faust's aiokafka consumer, delivering batches for `BATCH_TOPICS` and records for all others."""

    _read_offset: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.seeks: dict[TP, Seek] = {}
        self._epochs: defaultdict[TP, int] = defaultdict(int)
        self._position: dict[TP, int] = {}
        self._handed_out: defaultdict[TP, dict[int, int]] = defaultdict(dict)
        self._done: dict[TP, int] = {}
        self._firsts: defaultdict[TP, dict[int, Any]] = defaultdict(dict)
        self._taken: dict[TP, int] = {}
        self.on_commit: Callable[[bool, float], None] = lambda taken, seconds: None
        self._committed_at_zero: set[TP] = set()
        self._dropped: set[TP] = set()
        self._seek_lock = asyncio.Lock()
        super().__init__(*args, **kwargs)
        self._read_offset = ReadOffsets(lambda: None, self._read_offset)

    # -- what others ask

    def epoch(self, tp: TP) -> int:
        """Return the number of the partition's last seek."""
        return self._epochs[tp]

    def acknowledged(self, tp: TP) -> int | None:
        """Return the offset before which everything has been acknowledged in this epoch; None before the first batch."""
        self._advance(tp)
        return self._done.get(tp)

    def arrived_ms(self, tp: TP) -> int | None:
        """Return when Kafka took the first record that is not acknowledged, Unix time; None where it was not handed out."""
        first = self._firsts[tp].get(self._done.get(tp, -1))
        return None if first is None else int(first.timestamp)

    def committed(self, tp: TP) -> int | None:
        """Return what the group is known to have committed; None for nothing."""
        seek = self.seeks.get(tp)
        known = [offset for offset in (self._taken.get(tp), seek.committed if seek else None) if offset is not None]
        return max(known, default=None)

    def owned(self) -> set[TP]:
        """Return the assigned partitions of batch topics; none before the consumer is connected."""
        try:
            return {tp for tp in self.assignment() if tp.topic in BATCH_TOPICS}
        except ConsumerNotStarted:
            return set()

    def member(self) -> str:
        """Return the name that the group gave us; empty while it has not."""
        consumer = getattr(self._thread, "_consumer", None)
        return consumer._coordinator.member_id if consumer is not None else ""

    async def verify_all_partitions_active(self) -> None:
        """Leave stalls to agents/watchdog.py: Faust takes changelogs, which no stream reads, for stalled ones."""

    # -- reading

    def resume_flow(self) -> None:
        """Fetch on; not while partitions are handed round, where Faust does when the recovery before ends (`app.Tables`)."""
        tables: Any = self.app.tables
        if tables.is_last:
            super().resume_flow()

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, Any]]:
        """Yield what was fetched: one message per partition of a batch topic, one per record of any other."""
        fetched, active = await self._wait_next_records(timeout)
        generation = self.app.consumer_generation_id
        if fetched is None or self.should_stop:
            return
        if not self.flow_active:
            await self._seek_while_suspended()
            return
        for tp, records in fetched.items():
            if not self.flow_active or self.app.consumer_generation_id != generation:
                return
            wanted = active is None or tp in active or tp in self._buffered_partitions
            if tp.topic in BATCH_TOPICS:
                message = self._accept(tp, records) if wanted else None
                if message is None:
                    await self._resync(tp)
                else:
                    self.app.monitor.track_tp_end_offset(tp, self.highwater(tp))
                    yield tp, message
            elif wanted:
                for record in records:
                    if not self.flow_active:
                        return
                    yield tp, self._to_message(tp, record)

    async def _seek_while_suspended(self) -> None:
        try:
            await self.perform_seek()
        except Exception as error:  # noqa: BLE001 - as Faust does: the seek is done again before the flow resumes
            log.warning("could not seek while the flow was suspended: %r", error)

    async def _wait_next_records(self, timeout: float) -> Any:
        if self.flow_active and not self.app.client_only and not self._get_active_partitions():
            await asyncio.sleep(IDLE_S)  # Faust sleeps a whole second when every partition is under pressure
            return {}, set()
        return await super()._wait_next_records(timeout)

    async def _getmany(self, active_partitions: set[TP] | None, timeout: float) -> Any:
        consumer = getattr(self._thread, "_consumer", None)
        if consumer is not None:
            conf = self.app.conf
            consumer._max_poll_records = RESTORED_RECORDS_MAX if self.app.in_recovery else conf.broker_max_poll_records
        return await super()._getmany(active_partitions, timeout)

    def _accept(self, tp: TP, runs: list[Run]) -> BatchMessage | None:
        """Return the message of what continues at the position; None for anything else."""
        expected = self._position.get(tp)
        if runs[0].start != expected or any(a.end != b.start for a, b in pairwise(runs)):
            return None
        end = runs[-1].end
        message = BatchMessage(
            tp.topic, tp.partition, end - 1, SYSTEM_CLOCK.now_ms() / 1000, 0, None, None, runs, None, 0, 0, tp,
            generation_id=self.app.consumer_generation_id,
        )  # fmt: skip
        message.start, message.epoch = expected, self._epochs[tp]
        self._position[tp] = end
        self._handed_out[tp][end - 1] = expected
        if runs[0].records:
            self._firsts[tp][expected] = runs[0].records[0]
        self._done.setdefault(tp, expected)
        return message

    async def _resync(self, tp: TP) -> None:
        """Put the fetch position back to the authority's; begin anew where the log has moved past it."""
        expected = self._position.get(tp)
        if expected is None:  # not sought yet: the seek that comes sets the position
            self._dropped.add(tp)
            return
        try:
            log_start = (await self.earliest_offsets(tp))[tp] or 0
            if log_start > expected:
                log.warning("the log of %s starts at %d, past the position %d", tp, log_start, expected)
                await self.rewind(tp)
            else:
                await self._seek_on_thread({tp: expected})
        except Exception as error:  # noqa: BLE001 - the next fetch does not continue either, and comes back here
            log.warning("could not seek %s again: %r", tp, error)

    # -- seeking

    async def perform_seek(self) -> None:
        """Seek every partition to its committed offset. Faust calls it from two places, possibly at once."""
        async with self._seek_lock:
            partitions = self.owned()
            for tp in partitions:
                self._forget(tp)  # nothing is delivered until the position is set again
            await super().perform_seek()
            self._committed_offset.update(dict.fromkeys(self._committed_at_zero & partitions, 0))
            if partitions:
                await self._seek_to_start(await self.earliest_offsets(*partitions))

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Remember which commits are 0: Faust takes these for none."""
        committed: Mapping[TP, int] = await super().seek_to_committed()
        self._committed_at_zero = {TP(*tp) for tp, offset in committed.items() if offset == 0}
        return committed

    async def rewind(self, tp: TP) -> None:
        """Go back to the committed offset, a bucket's start: for the agent that sees a hole. Everything since comes again."""
        async with self._seek_lock:
            log_starts = await self.earliest_offsets(tp)  # may fail, and without a position nothing would come any more
            self._forget(tp)
            await self._seek_to_start(log_starts)

    async def _seek_to_start(self, log_starts: Mapping[TP, int | None]) -> None:
        positions: dict[TP, int] = {}
        for tp, first in log_starts.items():
            committed, log_start = self._committed_offset.get(tp), first or 0
            positions[tp] = max(committed or 0, log_start)
            self.seeks[tp] = Seek(self._epochs[tp], positions[tp], committed, log_start)
        self._dropped.difference_update(positions)
        await self._seek_on_thread(positions)  # Faust leaves a partition without a commit where it was
        self._position.update(positions)
        missed = {tp: position for tp, position in positions.items() if tp in self._dropped}
        if missed:  # fetched right after the seek, and dropped for want of a position: no later fetch need come to tell
            await self._seek_on_thread(missed)

    async def _seek_on_thread(self, positions: dict[TP, int]) -> None:
        """Seek where the fetching happens: Faust's own `_seek` changes aiokafka's buffers under its other thread's hands."""
        await self.seek_wait(positions)

    def _forget(self, tp: TP) -> None:
        self._epochs[tp] += 1
        for memory in (self._position, self._handed_out, self._done, self._acked, self._firsts):
            memory.pop(tp, None)

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Commit before Faust forgets what was acknowledged, else every rebalance reads it again."""
        await self.commit()
        await super().on_partitions_revoked(revoked)
        for tp in revoked:
            if tp.topic in BATCH_TOPICS:
                self._forget(tp)

    # -- acknowledging and committing

    def ack(self, message: Any) -> bool:
        """Take an acknowledgment, unless the partition was sought since: that span is read again.

        Faust ignores what lies below the commit it knows of: one that lands while a seek goes back before it would leave the
        spans in between open, and stop every later commit.
        """
        tp = message.tp
        if tp.topic not in BATCH_TOPICS:
            return bool(super().ack(message))
        current = not message.acked and message.epoch == self._epochs[tp]
        message.acked = True
        self._unacked_messages.discard(message)
        if current:
            self._acked[tp].append(message.offset)
        return current

    def _advance(self, tp: TP) -> None:
        """Move `_done` over every acknowledged span that continues it."""
        acked, done = self._acked.get(tp), self._done.get(tp)
        if not acked or done is None:
            return
        starts = self._handed_out[tp]
        for last in sorted(acked):
            if starts.get(last, last) != done:
                break
            self._firsts[tp].pop(done, None)
            done = last + 1
            starts.pop(last, None)
            acked.remove(last)
        self._done[tp] = done

    def _new_offset(self, tp: TP) -> int | None:
        """Return what may be committed: the contiguous acknowledged position, rounded down to a bucket's start."""
        if tp.topic not in BATCH_TOPICS:
            offset: int | None = super()._new_offset(tp)
            return offset
        self._advance(tp)
        floor = self._done.get(tp, 0) // BUCKET_OFFSETS * BUCKET_OFFSETS
        return floor if floor > (self._committed_offset[tp] or 0) else None

    async def _commit_offsets(self, offsets: Mapping[TP, int], start_new_transaction: bool = True) -> bool:
        """Commit, and remember what was taken: Faust remembers a refused commit as made."""
        started_s = SYSTEM_CLOCK.monotonic_s()
        taken = bool(await super()._commit_offsets(offsets, start_new_transaction=start_new_transaction))
        if taken:
            self._taken.update(offsets)
        self.on_commit(taken, SYSTEM_CLOCK.monotonic_s() - started_s)
        return taken

    async def commit_start(self, tp: TP) -> bool:
        """Commit what the last seek found committed, or for want of that where it went; False when the group refuses.

        The group takes commits of the owner alone. So what was found committed is not of a later owner, whose rows were never
        recovered here. And from then on no commit means that nothing was ever counted: a source that begins later has lost
        something.
        """
        seek = self.seeks[tp]
        taken = await self._commit_offsets({tp: seek.position if seek.committed is None else seek.committed})
        if not taken:
            self._committed_offset[tp] = seek.committed  # Faust remembers a refused commit as made
        return bool(taken)

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        if tp.topic not in BATCH_TOPICS:
            await super()._add_gap(tp, offset_from, offset_to)


class Producer(driver.Producer):
    """Idempotent, so that a retry is not taken for a second writer; acknowledged by all replicas."""

    def _settings_extra(self) -> dict[str, Any]:
        return {"acks": "all", "enable_idempotence": True}


class Transport(driver.Transport):
    """The transport that `broker="tally://host:port"` names."""

    Consumer = Consumer
    Producer = Producer


runs_.install()
TRANSPORTS.aliases[SCHEME] = f"{__name__}:{Transport.__qualname__}"
