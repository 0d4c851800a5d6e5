"""Run the counting protocol in one process on real stores: the source, the changelogs and the consumer are lists in memory."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from faust.types import TP

from agents.protocol import CountingProtocol
from streams.clock import SYSTEM_CLOCK
from streams.codecs import Codec
from streams.metrics import WorkerMetrics
from streams.runs import Run, cut
from streams.settings import load_settings
from streams.topics import BUCKET_OFFSETS, USER_TAGS, Stream, changelog_of
from streams.transport import Seek
from tables.fold import Fold
from tables.profiles import RowCodec
from tests.support.scripted_consumer import SOURCE
from tests.support.stores import recover, recovered, some_tables


class Broker:
    """The source and every other topic of partition 0, and what the group has committed.

    Attributes:
        source: values by offset; an offset that is missing is a hole in the log.
        timestamps: when each record came, milliseconds, by offset; 0 where nothing is said.
        log_start: first offset that the source still holds.
        topics: records as (key, value, headers), by topic.
        held_back: while true, batches are taken and not acknowledged.
    """

    def __init__(self) -> None:
        self.source: dict[int, bytes | None] = {}
        self.timestamps: dict[int, int] = {}
        self.log_start = 0
        self.committed: int | None = None
        self.topics: defaultdict[str, list[tuple[Any, Any, Any]]] = defaultdict(list)
        self.held_back = False
        self._waiting: list[tuple[asyncio.Future[Any], int]] = []

    def create_batch(self) -> Any:
        records: list[tuple[Any, Any, Any]] = []

        def append(*, key: Any, value: Any, timestamp: Any, headers: Any) -> object:
            records.append((key, value, headers))
            return object()

        return SimpleNamespace(records=records, append=append, close=lambda: None)

    async def send_batch(self, batch: Any, topic: str, *, partition: int) -> asyncio.Future[Any]:
        assert partition == SOURCE.partition
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((future, len(self.topics[topic])))
        self.topics[topic].extend(batch.records)
        if not self.held_back:
            self.acknowledge()
        return future

    def acknowledge(self) -> None:
        """Acknowledge everything that was taken, and from now on at once."""
        self.held_back = False
        for future, base in self._waiting:
            future.set_result(SimpleNamespace(offset=base))
        self._waiting.clear()


class InProcess(CountingProtocol):
    """One life of a worker that counts a stream: what it holds in memory is gone with it, its stores may be wiped or kept."""

    def __init__(self, broker: Broker, home: Path, stream: Stream = USER_TAGS, **settings: str) -> None:
        environ = {"TALLY_KAFKA_SERVERS": "127.0.0.1:1", "TALLY_STACK_HOME": str(home), **settings}
        tables = some_tables(home, stream)
        fold = Fold(Codec(stream), RowCodec(stream))
        self.source = TP(stream.topic, SOURCE.partition)
        super().__init__(tables, fold, load_settings(environ), metrics=WorkerMetrics(), clock=SYSTEM_CLOCK)
        self.broker = broker
        self.home = home
        self.seeks: dict[Any, Seek] = {}
        self.position = 0
        self.acknowledged: list[int] = []
        self.is_owner = True
        self.on_commit: Callable[[], Awaitable[None]] | None = None
        self._epoch = 0

    @property
    def consumer(self) -> Any:
        return self

    @property
    def producer(self) -> Any:
        return self.broker

    # -- the consumer's side

    def epoch(self, tp: Any) -> int:
        return self._epoch

    async def rewind(self, tp: Any) -> None:
        committed = self.broker.committed
        self._epoch += 1
        self.position = max(committed or 0, self.broker.log_start)
        self.seeks[tp] = Seek(self._epoch, self.position, committed, self.broker.log_start)

    async def commit_start(self, tp: Any) -> bool:
        seek = self.seeks[tp]
        if self.on_commit is not None:
            await self.on_commit()
        if not self.is_owner:
            return False
        self.broker.committed = seek.position if seek.committed is None else seek.committed
        return True

    # -- a life

    async def recover(self) -> None:
        """Bring the stores up to the changelogs as Faust does, and seek."""
        for table in self.tables.all:
            store, topic = table.data, changelog_of(table.name)
            store._db_for_partition(0)
            first = (store.persisted_offset(self.source) or -1) + 1
            for offset, (key, value, _) in enumerate(self.broker.topics[topic][first:], first):
                recover(store, recovered(topic, offset, key, value))
        self.offset_keys.reset()
        await self.rewind(self.source)

    def runs(self, end: int) -> list[Run]:
        """Return the runs from the position to *end*, holes as the transport shows them."""
        offsets = [offset for offset in range(self.position, end) if offset in self.broker.source]
        records = [
            SimpleNamespace(
                offset=o, value=self.broker.source[o], key=b"k", headers=(), timestamp=self.broker.timestamps.get(o, 0)
            )
            for o in offsets
        ]
        runs = list(cut(records, self.position))
        reached = runs[-1].end if runs else self.position
        return runs if reached == end else [*runs, Run(reached, end, [], [])]

    def message(self, end: int) -> Any:
        """Return the event of what lies before *end*, and move the position."""
        message = SimpleNamespace(
            partition=0, tp=self.source, epoch=self._epoch, start=self.position, value=self.runs(end), offset=end - 1
        )
        self.position = end
        return SimpleNamespace(message=message, ack=lambda: self.acknowledged.append(message.offset))

    async def deliver(self, end: int) -> None:
        """Take what lies before *end* through the protocol."""
        await self.count(self.message(end))

    async def finish(self) -> None:
        """Wait until everything sent is stored, and commit."""
        state = self.state(0)
        if state.tail is not None:
            await state.tail
        if self.acknowledged and state.epoch == self._epoch:
            floor = state.next // BUCKET_OFFSETS * BUCKET_OFFSETS
            self.broker.committed = max(self.broker.committed or 0, floor)

    def close(self) -> None:
        """Let go of the stores."""
        for table in self.tables.all:
            table.data._dbs.clear()
