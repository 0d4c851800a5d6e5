"""Run the product's consumer: positions, epochs, acknowledgments and commits are its own, aiokafka and Faust are played.

`streams.transport.Consumer` runs as it is: `getmany`, `rewind`, `perform_seek`, `ack`, `_new_offset`, revocation. Below it
`PlayedFaust` stands where Faust's consumer stands: the same steps with the same awaits, without services, threads, sensors
and tracing, which would cost more than all else. Fetching is played on top, with what goes wrong there.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping
from random import Random
from types import SimpleNamespace
from typing import Any

from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from streams import transport
from streams.runs import Run, cut
from tests.simulation.group import Group
from tests.simulation.kafka import Kafka

FETCH_RECORDS_MAX = 7
RUN_RECORDS = 4
"""Records of a run at most, so that a delivery has several of them, with an await after each."""
log = logging.getLogger(__name__)


class PlayedFaust(driver.Consumer):
    """What the product's consumer inherits, but for its machinery."""

    should_stop = False
    flow_active = True
    group: Group
    assigned: set[TP]
    fetch_position: dict[TP, int]

    def __init__(self, app: Any) -> None:
        self.app = app
        self.log = log
        self._read_offset: Any = defaultdict(lambda: None)
        self._acked: Any = defaultdict(list)
        self._committed_offset: Any = defaultdict(lambda: None)
        self._unacked_messages: set[Any] = set()
        self._active_partitions: set[TP] = set()
        self._paused_partitions: set[TP] = set()
        self._buffered_partitions: set[TP] = set()
        self._commit_fut: asyncio.Future[None] | None = None

    async def commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:
        """Commit as Faust does: one at a time, and what was refused is remembered as committed all the same."""
        if await self.maybe_wait_for_commit_to_finish():
            return False
        future = self._commit_fut = asyncio.get_running_loop().create_future()
        try:
            offsets = self._filter_committable_offsets(list(self._acked))
            return await self._commit_offsets(offsets)
        finally:
            self._commit_fut = None
            future.set_result(None)

    async def _commit_offsets(self, offsets: Mapping[TP, int], start_new_transaction: bool = True) -> bool:
        offsets = {tp: offset for tp, offset in offsets.items() if tp in self.assignment()}
        if not offsets:
            return False
        did_commit: bool = await self._commit(offsets)
        self._committed_offset.update(offsets)
        return did_commit

    async def seek_to_committed(self) -> Mapping[TP, int]:
        await asyncio.sleep(0)
        committed = {tp: self.group.committed.get(tp.partition, -1) for tp in sorted(self.assigned)}
        found = {tp: offset for tp, offset in committed.items() if offset >= 0}
        self.fetch_position.update(found)
        await asyncio.sleep(0)
        return found

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Forget as Faust does; the app's own part is the worker's."""
        self._active_partitions.difference_update(revoked)
        self._paused_partitions.difference_update(revoked)
        for tp in revoked:
            self._acked.pop(tp, None)
            self._read_offset.pop(tp, None)
            self._committed_offset.pop(tp, None)

    async def _wait_next_records(self, timeout: float) -> Any:
        active = self._get_active_partitions()
        return await self._getmany(active, timeout), active


class Consumer(transport.Consumer, PlayedFaust):
    """The product's consumer over a played broker.

    Attributes:
        assigned: partitions of the current generation, as far as this process knows.
        fetch_position: aiokafka's own position, which faults move.
        faults: how likely a fetch goes wrong.
    """

    def __init__(self, number: int, kafka: Kafka, group: Group, rng: Random) -> None:
        app = SimpleNamespace(
            client_only=False, consumer_generation_id=0, monitor=SimpleNamespace(track_tp_end_offset=lambda tp, end: None)
        )
        super().__init__(app)
        self.number = number
        self.kafka = kafka
        self.group = group
        self.rng = rng
        self.assigned: set[TP] = set()
        self.fetch_position: dict[TP, int] = {}
        self.faults = 0.0
        self.fetch_records_max = FETCH_RECORDS_MAX

    # -- what the broker says

    def assignment(self) -> set[TP]:
        return self.assigned

    def highwater(self, tp: TP) -> int:
        end: int = self.kafka.visible[tp.partition]
        return end

    async def earliest_offsets(self, *partitions: TP) -> Mapping[TP, int]:
        await asyncio.sleep(0)
        return {tp: self.kafka.log_start[tp.partition] for tp in sorted(partitions)}

    async def seek_wait(self, partitions: Mapping[TP, int]) -> None:
        await asyncio.sleep(0)
        self.fetch_position.update(partitions)
        await asyncio.sleep(0)

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        await asyncio.sleep(0)
        taken = self.group.commit(self.number, self.app.consumer_generation_id, dict(offsets))
        await asyncio.sleep(0)
        return taken

    # -- fetching

    def may_fetch(self) -> bool:
        """Return whether something lies at a fetch position."""
        visible = self.kafka.visible
        return any(self.fetch_position.get(tp, 0) != visible[tp.partition] for tp in self.assigned)

    async def _getmany(self, active_partitions: Any, timeout: float) -> dict[TP, list[Run]]:
        fetched = {}
        for tp in sorted(active_partitions):
            runs = self._fetch(tp)
            if runs:
                fetched[tp] = runs
        await asyncio.sleep(0)
        return fetched

    def _fetch(self, tp: TP) -> list[Run]:
        """Return what lies at the fetch position, which moves on; now and then it moves elsewhere, or what is read is lost."""
        faulty = self.rng.random() < self.faults
        if faulty and self.rng.random() < 0.5:
            self.fetch_position[tp] = max(0, self.fetch_position.get(tp, 0) + self.rng.randrange(-9, 9))
        start = max(self.fetch_position.get(tp, 0), self.kafka.log_start[tp.partition])
        if start > self.kafka.visible[tp.partition]:
            start = self.fetch_position[tp] = self.kafka.log_start[tp.partition]  # out of range: the reset is to the earliest
        runs = list(self._runs(tp.partition, start, 1 + int(self.rng.random() * self.fetch_records_max)))
        if runs:
            self.fetch_position[tp] = runs[-1].end
        return [] if faulty and self.rng.random() < 0.5 else runs

    def _runs(self, partition: int, start: int, limit: int) -> Iterable[Run]:
        records, end = self.kafka.read_source(partition, start, limit)
        for first in range(0, len(records), RUN_RECORDS):
            for run in cut(records[first : first + RUN_RECORDS], start):
                start = run.end
                yield run
        if end > start:
            yield Run(start, end, [], [])
