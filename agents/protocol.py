"""The protocol that counts every event exactly once: the one place where the order of work is decided.

Invariants, for each source partition:

1. *Law.* A changelog record is a pure function of its key (tables/blocks, tables/profiles). Sending again, in another
   order or by a second writer changes nothing.
2. *Continuity.* A batch is folded only if it belongs to the transport's current epoch and starts where the last one ended.
   A new epoch begins at a bucket's start, with the bucket empty; or at the log's start, seeded from the stored versions.
3. *Changelog before store.* RocksDB is written when every acknowledgment of this batch, and of all before it, is in; the
   offset key goes with the last write, and only while our own records lie contiguously behind it.
4. *Blocks last.* They are sent when Kafka has the rows and dead letters of all that they count: blocks tell how far
   everything is counted, and a source that has forgotten those events could not make the rest again.
5. *Store before acknowledgment.* A batch is acknowledged to Faust when 3 is done, so a commit never passes it.
6. *Commit at bucket starts.* The transport rounds down: an open bucket is always read again from its first offset. Before
   anything of an epoch is counted, what its seek found committed is committed again, or for want of that where it begins: the
   group refuses a worker whose partition has moved on, so what was found is of no later owner, whose rows were never recovered
   here; and no commit means nothing counted.
7. *No escape.* An exception in 2 to 5 ends the process. Raising would acknowledge.

A second delivery of any batch, by a restart, a rebalance or a rewind, folds the same cells under the same keys.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, starmap
from typing import Any

from aiokafka.errors import KafkaError
from faust.types import TP
from rocksdict import WriteBatch

from agents.beginning import Beginning, beginning_at
from agents.changelog import BatchProducer, ChangelogRecord, OffsetKeys, Sent, dead_letter, send_groups
from agents.guard import DeadLetterShare, guard
from agents.observe import BatchObserver, Found, arrival_ms
from streams.clock import Clock
from streams.errors import DeadLetterWriteError, KafkaUnavailableError
from streams.metrics import WorkerMetrics
from streams.runs import Run
from streams.settings import Settings
from streams.topics import BUCKET_OFFSETS, DEAD_LETTERS, changelog_of
from tables.blocks import PROGRESS, Minutes, Record, decode_block
from tables.duplicates import stored_duplicates
from tables.erasures import note_record, stored_erasures
from tables.fold import Fold, Judge, Refused
from tables.partitions import PartitionState
from tables.profiles import MISROUTED, encode_spans
from tables.registry import StreamTables
from tables.store import OFFSET_KEY, Store, note_arrival, write_batch
from tables.trim import trim
from tables.versions import versions_of

log = logging.getLogger(__name__)

WRITE_ROWS_MAX = 2048
"""Rows of one RocksDB write: it holds the GIL, and the views share the loop."""


@dataclass(slots=True)
class Batch:
    """What one delivery becomes: all of it is sent, stored and acknowledged together. `rewritten`: see agents/erase_rows.py."""

    event: Any | None = None
    records: int = 0
    blocks: list[list[Record]] = field(default_factory=list)
    rows: list[bytes] = field(default_factory=list)
    refused: list[tuple[Refused, Any]] = field(default_factory=list)
    notes: list[tuple[bytes, bytes]] = field(default_factory=list)
    rewritten: list[ChangelogRecord] = field(default_factory=list)
    end: int = 0
    started_s: float = 0.0
    arrived_ms: int = 0
    unseen_ms: int = 0


class CountingProtocol:
    """Counts the events of one stream; a worker process has one for each."""

    def __init__(self, tables: StreamTables, fold: Fold, settings: Settings, *, metrics: WorkerMetrics, clock: Clock) -> None:
        self.tables = tables
        self.fold = fold
        self.settings = settings
        self.metrics = metrics
        self.clock = clock
        self.states: dict[int, PartitionState] = {}
        self.observer = BatchObserver(
            tables.stream.topic, DeadLetterShare(settings.dead_letters), partitions=settings.topics.partitions, metrics=metrics,
            clock=clock,
        )  # fmt: skip
        self.offset_keys = OffsetKeys(self._persisted_offset, lambda table: metrics.frozen.labels(table).inc())
        self._slots = asyncio.Semaphore(settings.worker.batches_in_flight_max)

    @property
    def consumer(self) -> Any:
        return self.tables.blocks.app.consumer

    @property
    def producer(self) -> BatchProducer:
        producer: BatchProducer = self.tables.blocks.app.producer._ensure_producer()
        return producer

    def state(self, partition: int) -> PartitionState:
        """Return the state of a partition, a new one at first sight."""
        state = self.states.get(partition)
        if state is None:
            state = self.states[partition] = PartitionState(partition, self.tables.stream)
        return state

    # -- 1. accept

    async def count(self, event: Any) -> None:
        """Take one delivery through the whole protocol; returns when it is sent, and finishes in the background."""
        message = event.message
        state = self.state(message.partition)
        if message.epoch != self.consumer.epoch(message.tp):
            return  # the partition was sought since: that span comes again
        if state.epoch != message.epoch and not await self._begin(state, message):
            return
        if state.next != message.start:
            log.warning("a batch of %s was lost before %d: reading again from the commit", message.tp, message.start)
            self.metrics.rewinds.inc()
            await self.consumer.rewind(message.tp)
            return
        await self._slots.acquire()
        batch = Batch(event=event, started_s=self.clock.monotonic_s())
        state.folding = True
        for run in message.value:
            if not self._may_judge(state, message):
                state.abandon()
                self._slots.release()
                return
            self._fold_run(state, run, batch)
            await asyncio.sleep(0)  # the views share the loop
        batch.end = state.next
        self._observe(state, message.value, batch)
        if self.observer.sees_misrouted(state.partition, batch.rows):
            batch.notes.append((MISROUTED, b""))
        if batch.started_s - state.emitted_at_s >= self.settings.worker.partial_interval_s:
            self._add_partial(state, batch)
        await self._send(state, batch)
        state.folding = False

    async def _begin(self, state: PartitionState, message: Any) -> bool:
        """Begin a new epoch; False when its first batch is not the one that the seek asked for."""
        if state.tail is not None:
            await state.tail  # what the store holds must include what was on its way
        seek = self.consumer.seeks[message.tp]
        if seek.epoch != message.epoch or seek.position != message.start:
            await self.consumer.rewind(message.tp)
            return False
        is_owner = await self.consumer.commit_start(message.tp)
        if message.epoch != self.consumer.epoch(message.tp):
            return False  # given away meanwhile
        if not is_owner:
            await self.consumer.rewind(message.tp)
            return False
        beginning = self._beginning(state.partition, seek)
        state.begin(message.epoch, seek.position)
        state.erased.add(stored_erasures(self.tables.row_store, state.partition))
        state.known = self.counted(state.partition) or 0
        if state.submissions is not None:
            duplicates = stored_duplicates(self.tables.row_store, state.partition, state.open.number * BUCKET_OFFSETS)
            state.submissions.begin(duplicates, known=state.known)
        self.metrics.replayed.inc(max(0, state.known - seek.position))
        self._seed(state, beginning)
        log.info("counting %s from offset %d", message.tp, seek.position)
        return True

    def _beginning(self, partition: int, seek: Any) -> Beginning:
        return beginning_at(
            seek.position, committed=seek.committed, log_start=seek.log_start, counted=self.counted(partition),
            accept_lost=self.settings.worker.accept_lost_events,
        )  # fmt: skip

    async def check_beginnings(self) -> None:
        """Find lost events where no batch has come since the seek: a source that forgot everything delivers none.

        Raises:
            LostEventsError: the source has lost events that were never counted.
        """
        for partition in self.tables.block_store.owned():
            state, seek = self.state(partition), self.consumer.seeks.get(TP(self.tables.stream.topic, partition))
            if seek is None or seek.epoch == state.epoch:
                continue
            if state.tail is not None:
                await state.tail
            if self.tables.block_store.database(partition) is not None:
                self._beginning(partition, seek)

    def _seed(self, state: PartitionState, beginning: Beginning) -> None:
        if beginning.seed:
            bucket = state.open
            stored = versions_of(self.tables.block_store, state.partition, bucket.number)
            blocks = [(key, decode_block(value)) for key, value in stored if key.minute != PROGRESS]
            bucket.seed(blocks, through=min(beginning.through, bucket.end - 1))

    # -- 2. fold

    def _fold_run(self, state: PartitionState, run: Run, batch: Batch) -> None:
        """Fold one run, cut at bucket ends and where a seeded bucket begins to count; close what is complete."""
        offset, end = run.base, run.end
        while offset < end:
            self._close_before(state, offset, batch)
            bucket = state.open
            cut = min(end, bucket.end, bucket.counted if offset < bucket.counted else end)
            minutes = bucket.minutes if offset >= bucket.counted else Minutes()
            values = run.values[offset - run.base : cut - run.base]
            for refused in self.fold.fold(values, offset, minutes, batch.rows, judge=self._judge(state, run)):
                batch.refused.append((refused, run.records[refused.offset - run.base]))
            state.next = offset = cut
        state.next = end
        self._close_before(state, end, batch)
        state.dirty = end > state.open.number * BUCKET_OFFSETS  # holes are progress too: what follows a bucket's end is told
        batch.records += len(run.values)

    def _close_before(self, state: PartitionState, offset: int, batch: Batch) -> None:
        bucket = state.open
        if offset >= bucket.end:
            batch.blocks.append(self._emit(state, bucket.end - 1))
            state.open = bucket.following(offset // BUCKET_OFFSETS)

    def _may_judge(self, state: PartitionState, message: Any) -> bool:
        """Say whether the index can be asked: without it a batch under way would take duplicates for first ones."""
        if state.submissions is None:
            return True
        is_ours = message.epoch == self.consumer.epoch(message.tp)
        return is_ours and self.tables.row_store.database(state.partition) is not None  # type: ignore[union-attr]

    def _judge(self, state: PartitionState, run: Run) -> Judge | None:
        """Return who tells duplicates, for use before the next await; None where there are none."""
        if state.submissions is None:
            return None
        cursor = self.tables.row_store.database(state.partition).iter()  # type: ignore[union-attr] # `_may_judge` has looked
        return partial(state.submissions.judge, records=run.records, base=run.base, cursor=cursor)

    def _emit(self, state: PartitionState, through: int) -> list[Record]:
        store, partition = self.tables.block_store, state.partition
        state.emitted_at_s = self.clock.monotonic_s()
        return state.open.emit(through, stored=lambda low, high: store.keys_between(partition, low, high))

    def _observe(self, state: PartitionState, runs: list[Run], batch: Batch) -> None:
        repeated = state.submissions.take_repeated() if state.submissions is not None else (0, 0)
        found = Found(batch.records, [refused for refused, _ in batch.refused], *repeated)
        self.observer.folded(runs, found, known=state.known)
        batch.arrived_ms = arrival_ms(runs)
        state.unseen_ms = state.unseen_ms or batch.arrived_ms

    # -- 3. send

    async def _send(self, state: PartitionState, batch: Batch) -> None:
        """Send rows and dead letters, in order; the batch's blocks follow in `_finish`, after that of the batch before."""
        if batch.blocks:  # what they leave out came with this delivery
            batch.unseen_ms, state.unseen_ms = state.unseen_ms, batch.arrived_ms if state.dirty else 0
        async with state.lock:
            batch.rows = state.erased.kept_rows(batch.rows)
            batch.refused = state.erased.kept_refused(batch.refused, user_path=self.tables.stream.key)
            sent = {DEAD_LETTERS: await self._send_dead_letters(state.partition, batch)}
            if self.tables.rows is not None:
                records = chain(encode_spans(batch.rows), map(note_record, batch.notes))
                groups = [[record] for record in (*starmap(ChangelogRecord, records), *batch.rewritten)]
                sent[self.tables.rows.name] = await self._send_table(self.tables.rows, state.partition, groups)
            state.tail = asyncio.ensure_future(self._finish(state, batch, sent, state.tail))

    async def _send_blocks(self, partition: int, batch: Batch) -> list[tuple[int, int]]:
        groups = [[ChangelogRecord(*record) for record in group] for group in batch.blocks]
        name = self.tables.blocks.name
        return await self._acknowledgments(await self._send_table(self.tables.blocks, partition, groups), name)

    async def _send_table(self, table: Any, partition: int, groups: list[list[ChangelogRecord]]) -> list[Sent]:
        size = sum(len(record.key or b"") + len(record.value or b"") for group in groups for record in group)
        self.metrics.changelog_bytes.labels(table.name).inc(size)
        return await send_groups(self.producer, changelog_of(table.name), partition, groups)

    async def _send_dead_letters(self, partition: int, batch: Batch) -> list[Sent]:
        topic = self.tables.stream.topic
        groups = [[dead_letter(topic, partition, refused, record)] for refused, record in batch.refused]
        return await send_groups(self.producer, DEAD_LETTERS, partition, groups)

    # -- 4. store, 5. acknowledge

    async def _finish(
        self, state: PartitionState, batch: Batch, sent: dict[str, list[Sent]], before: asyncio.Future[None] | None
    ) -> None:
        async with guard():
            acknowledged = {topic: await self._acknowledgments(batches, topic) for topic, batches in sent.items()}
            if before is not None:
                await before
            self._store_blocks(state.partition, batch, await self._send_blocks(state.partition, batch))
            self.observer.shown(batch.unseen_ms)
            if self.tables.rows is not None:
                await self._store_rows(state.partition, batch, acknowledged[self.tables.rows.name])
            if batch.event is not None:
                if state.submissions is not None:
                    state.submissions.stored(batch.end)
                batch.event.ack()
                self.metrics.batch_seconds.observe(self.clock.monotonic_s() - batch.started_s)
                self._slots.release()

    async def _acknowledgments(self, sent: list[Sent], name: str) -> list[tuple[int, int]]:
        timeout_s = self.settings.worker.acknowledge_timeout_s
        try:
            return [
                ((await asyncio.wait_for(asyncio.shield(part.acknowledgment), timeout_s)).offset, part.records) for part in sent
            ]
        except TimeoutError as error:
            kind = DeadLetterWriteError if name == DEAD_LETTERS else KafkaUnavailableError
            raise kind(f"Kafka did not acknowledge a batch of {name} within {timeout_s} s") from error
        except KafkaError as error:
            if name != DEAD_LETTERS:
                raise
            raise DeadLetterWriteError(f"Kafka refuses a batch of {name}: {error!r}") from error

    def _store_blocks(self, partition: int, batch: Batch, acknowledged: list[tuple[int, int]]) -> None:
        store = self.tables.block_store
        database = store.database(partition)
        if not batch.blocks or database is None:  # revoked meanwhile: the changelog has it, and the offset key has not moved
            return
        write = WriteBatch(raw_mode=True)
        for group in batch.blocks:
            for key, value in group:
                if value is None:
                    write.delete(key)
                else:
                    write.put(key, value)
                    note_arrival(write, key, self.clock.now_ms())
        self._remember(write, self.tables.blocks.name, partition, acknowledged)
        write_batch(database, write)

    async def _store_rows(self, partition: int, batch: Batch, acknowledged: list[tuple[int, int]]) -> None:
        """Write rows in slices; the offset key comes in the last, so a crash in between only repeats them."""
        rows = batch.rows
        if not acknowledged:
            return
        store: Store = self.tables.row_store  # type: ignore[assignment]
        last = max(0, (len(rows) - 1) // (2 * WRITE_ROWS_MAX))
        for number in range(last + 1):
            database = store.database(partition)
            if database is None:
                return
            write = WriteBatch(raw_mode=True)
            pairs = iter(rows[2 * WRITE_ROWS_MAX * number : 2 * WRITE_ROWS_MAX * (number + 1)])
            for key in pairs:
                write.put(key, next(pairs))
            for key, value in batch.notes:
                write.put(key, value)
            if number == last:
                self._remember(write, self.tables.rows.name, partition, acknowledged)  # type: ignore[union-attr]
            write_batch(database, write)
            del database
            if number < last:
                await asyncio.sleep(0)
        trim(store, partition, rows)

    def _remember(self, write: WriteBatch, table: str, partition: int, acknowledged: list[tuple[int, int]]) -> None:
        offset = self.offset_keys.advance(table, partition, acknowledged)
        if offset is not None:
            write.put(OFFSET_KEY, str(offset).encode())

    def _persisted_offset(self, table: str, partition: int) -> int | None:
        kept = next(kept for kept in self.tables.all if kept.name == table)
        offset: int | None = kept.data.persisted_offset(TP(changelog_of(table), partition))
        return offset

    # -- partial versions, for freshness and for a source that forgets

    async def send_partials(self, *, keep_alive_s: float) -> None:
        """Send what the open buckets hold, where that changed; and what has been silent for long, unchanged."""
        for partition in self.tables.block_store.owned():
            state = self.state(partition)
            batch = Batch()
            if state.folding:
                continue  # it sends the partial version itself
            if state.dirty:
                self._add_partial(state, batch)
            elif self.clock.monotonic_s() - state.emitted_at_s > keep_alive_s:
                batch.blocks.append(self._keep_alive(state))
            if any(batch.blocks):
                await self._send(state, batch)

    def _add_partial(self, state: PartitionState, batch: Batch) -> None:
        if state.dirty:
            batch.blocks.append(self._emit(state, state.through))
            state.dirty = False

    def _keep_alive(self, state: PartitionState) -> list[Record]:
        """Return the stored versions of the last bucket: sent again they outlive every retention while it is open."""
        state.emitted_at_s = self.clock.monotonic_s()
        store, partition = self.tables.block_store, state.partition
        progress = store.progress(partition)
        versions = [] if progress is None else versions_of(store, partition, progress.bucket)
        return [(key.encode(), value) for key, value in versions]

    def counted(self, partition: int) -> int | None:
        """Return the offset before which the stored state has everything; None where nothing is stored."""
        progress = self.tables.block_store.progress(partition)
        return None if progress is None else progress.through + 1
