"""Run every stage of counting alone, on the same bytes, in one thread: where the CPU time of an event goes.

Nothing is built into the product for it, so it costs nothing there. What a stage needs is made by the stage before it; the
code is the product's own, but for sockets, the event loop, Faust and the commits: these are what is left of a real worker's
cost.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from struct import pack_into
from typing import Any, TypeVar

from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from faust.types import TP
from rocksdict import WriteBatch

from agents.changelog import BATCH_BYTES
from agents.protocol import WRITE_ROWS_MAX
from bench.workloads import Workload, events_of
from streams.codecs import Codec
from streams.runs import Run, RunRecords
from streams.topics import USER_TAGS
from tables.blocks import OpenBucket, Record
from tables.fold import Fold
from tables.profiles import RowCodec, encode_spans
from tables.registry import StreamTables
from tables.store import Store, write_batch
from tables.trim import trim
from tests.support.stores import opened, some_tables

LZ4, ZSTD = 3, 4
"""Kafka's numbers: of what the source topic is filled with, and of what changelogs are sent with."""
SOURCE_BATCH_BYTES = 1 << 20
READ_COMMITTED = 0
GC_THRESHOLDS = (100_000, 50, 50)
"""As pipeline.py sets them."""
PARTITION = TP(USER_TAGS.topic, 0)
T = TypeVar("T")


@dataclass
class Costs:
    """CPU seconds by stage, of the thread that works; what RocksDB does behind its back is one more stage."""

    cpu_s: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    def of(self, stage: str, work: Callable[[], T]) -> T:
        """Do a part of a stage's work and add what it took."""
        started_s = time.thread_time()
        result = work()
        self.cpu_s[stage] += time.thread_time() - started_s
        return result

    @contextmanager
    def with_background(self, stage: str) -> Iterator[None]:
        """Add what other threads of this process use meanwhile as a stage of its own."""
        before_s = time.process_time() - time.thread_time()
        yield
        self.cpu_s[stage] += time.process_time() - time.thread_time() - before_s

    def us(self, events: int) -> dict[str, float]:
        """Return µs an event by stage."""
        return {stage: cpu_s / events * 1e6 for stage, cpu_s in self.cpu_s.items()}


def stage_costs(workload: Workload, home: Path, *, warm: int) -> dict[str, float]:
    """Return CPU µs an event by stage, after a warm-up with the first *warm* events.

    Args:
        home: an empty folder for RocksDB.
    """
    gc.set_threshold(*GC_THRESHOLDS)
    tables = some_tables(home)
    for store in (tables.block_store, _row_store(tables)):
        opened(store)  # to be restored, as a new database is; from here on as it is used
        asyncio.run(store.on_recovery_completed(set(), set()))
    batches = list(record_batches(workload))
    gc.freeze()
    _run(Costs(), tables, list(islice(batches, max(1, len(batches) * warm // workload.events))))
    costs = Costs()
    _run(costs, tables, batches)
    return costs.us(workload.events)


def record_batches(workload: Workload) -> Iterator[bytes]:
    """Yield the bytes of Kafka's record batches as a broker would send them, all events in one partition."""
    base, count = 0, 0
    builder = _builder()
    for event in events_of(workload):
        if builder.append(count, 0, event.cookie, event.body, []) is None:
            yield _built(builder, base)
            builder, base, count = _builder(), base + count, 0
            builder.append(count, 0, event.cookie, event.body, [])
        count += 1
    yield _built(builder, base)


def _builder() -> Any:
    return DefaultRecordBatchBuilder(2, LZ4, False, -1, -1, -1, SOURCE_BATCH_BYTES)


def _built(builder: Any, base: int) -> bytes:
    raw = bytearray(builder.build())
    pack_into(">q", raw, 0, base)  # the checksum does not cover it: brokers set it too
    return bytes(raw)


def _run(costs: Costs, tables: StreamTables, batches: Iterable[bytes]) -> None:
    """Take record batch after record batch through all stages, as a worker does: the caches hold what they hold there."""
    work = _Work(costs, tables)
    with costs.with_background("RocksDB, its own threads"):
        for raw in batches:
            work.count(raw)
        costs.of("RocksDB, blocks", opened(tables.block_store).flush)
        costs.of("RocksDB, rows", opened(_row_store(tables)).flush)


class _Work:
    """What the stages need from one record batch to the next."""

    def __init__(self, costs: Costs, tables: StreamTables) -> None:
        codec = Codec(USER_TAGS)
        self._costs, self._tables = costs, tables
        self._decode_run = codec.decode_run
        self._alone, self._both = Folding(Fold(codec, None)), Folding(Fold(codec, RowCodec(USER_TAGS)))

    def count(self, raw: bytes) -> None:
        """Take one record batch through all stages."""
        of = self._costs.of
        runs = of("fetch: checksum, lz4, cut into runs", lambda: cut_batch(raw))
        of("decode", lambda: self._decode(runs))
        of("fold without rows", lambda: self._alone.fold(runs))
        buckets, rows = of("fold with rows", lambda: self._both.fold(runs))
        blocks = of("changelog: encode blocks", lambda: [_emit(bucket) for bucket in buckets])
        spans = of("changelog: encode spans", lambda: list(encode_spans(rows)))
        of("changelog: batches and zstd, blocks", lambda: _build_all(blocks))
        of("changelog: batches and zstd, rows", lambda: _build_all([spans]))
        of("RocksDB, blocks", lambda: _store_blocks(self._tables.block_store, blocks))
        of("RocksDB, rows", lambda: _store_rows(_row_store(self._tables), rows))

    def _decode(self, runs: Iterable[Run]) -> None:
        for run in runs:
            self._decode_run(run.values, run.base)


def _row_store(tables: StreamTables) -> Store:
    assert tables.row_store is not None
    return tables.row_store


def cut_batch(raw: bytes) -> list[Run]:
    """Return the runs of one record batch, read as the worker's fetch thread reads it."""
    base = int.from_bytes(raw[:8], "big")
    return list(RunRecords(PARTITION, MemoryRecords(raw), [], base, None, None, True, READ_COMMITTED))


class Folding:
    """Fold runs as the protocol does: cut at the ends of buckets."""

    def __init__(self, fold: Fold) -> None:
        self._fold = fold
        self._open = OpenBucket(0, len(USER_TAGS.sums))

    def fold(self, runs: Iterable[Run]) -> tuple[list[OpenBucket], list[bytes]]:
        """Return the buckets that ended, and the rows of all runs, keys and values in turn."""
        closed: list[OpenBucket] = []
        rows: list[bytes] = []
        for run in runs:
            offset = run.base
            while offset < run.end:
                if offset >= self._open.end:
                    closed.append(self._open)
                    self._open = OpenBucket(self._open.number + 1, len(USER_TAGS.sums))
                end = min(run.end, self._open.end)
                refused = self._fold.fold(run.values[offset - run.base : end - run.base], offset, self._open.minutes, rows)
                assert not refused, "every event of the generator is valid"
                offset = end
        return closed, rows


def _emit(bucket: OpenBucket) -> list[Record]:
    return bucket.emit(bucket.end - 1, stored=lambda low, high: [])


def _build_all(groups: Iterable[Iterable[Record]]) -> None:
    """Make the bytes of changelog batches, compressed as they are sent."""
    for group in groups:
        builder = BatchBuilder(BATCH_BYTES * 2, ZSTD)
        for key, value in group:
            if builder.append(key=key, value=value, timestamp=None) is None:
                builder._build()
                builder = BatchBuilder(BATCH_BYTES * 2, ZSTD)
                builder.append(key=key, value=value, timestamp=None)
        builder.close()
        builder._build()


def _store_blocks(store: Store, groups: Iterable[Sequence[Record]]) -> None:
    database = opened(store)
    for group in groups:
        write = WriteBatch(raw_mode=True)
        for key, value in group:
            if value is not None:
                write.put(key, value)
        write_batch(database, write)


def _store_rows(store: Store, rows: Sequence[bytes]) -> None:
    database = opened(store)
    for first in range(0, len(rows), 2 * WRITE_ROWS_MAX):
        write = WriteBatch(raw_mode=True)
        pairs = iter(rows[first : first + 2 * WRITE_ROWS_MAX])
        for key in pairs:
            write.put(key, next(pairs))
        write_batch(database, write)
    trim(store, PARTITION.partition, rows)
