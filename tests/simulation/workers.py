"""Play a worker process around the product's protocol: joining, recovery, fetching, the agent and the timers.

`CountingProtocol`, its stores and its consumer run as they are. What Faust does around them is played here, each as a task
of the process that the scheduler starts when it likes: nothing waits for time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any

from agents.guard import guard
from agents.protocol import CountingProtocol
from streams.errors import KafkaUnavailableError, LostEventsError
from streams.settings import Settings, load_settings
from tables.registry import StreamTables
from tests.simulation.consumer import Consumer
from tests.simulation.events import PARTITIONS
from tests.simulation.kafka import Producer
from tests.simulation.loop import ProcessEndedError, ProcessLoop
from tests.simulation.stores import Disk, MemoryStore, unchanged

RECOVERED_AT_ONCE_MAX = 6
"""Records of a changelog between two awaits of a recovery."""
SILENT_S = 1e9
"""For a timer's `keep_alive_s`: never."""
SETTINGS: Settings = load_settings(
    {
        "TALLY_KAFKA_SERVERS": "127.0.0.1:1",
        "TALLY_TOPICS_PARTITIONS": str(PARTITIONS),
        "TALLY_WORKER_BATCHES_IN_FLIGHT_MAX": "3",
    }
)


class Unmeasured:
    """Stand for the metrics: they take half of the time of a small schedule and decide nothing."""

    def __getattr__(self, name: str) -> Unmeasured:
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> Unmeasured:
        return self


class Worker:
    """One worker: its lives follow each other, its disk stays.

    Attributes:
        paused: stopped by SIGSTOP; it knows nothing of it.
        ready: recovered, sought and counting.
        running: what is under way, by name.
        faults: how likely what was fetched is lost before the agent has it.
    """

    def __init__(self, number: int, world: Any) -> None:
        self.number = number
        self.world = world
        self.disk: Disk = {}
        self.loop = ProcessLoop(world.rng, world.clock)  # type: ignore[abstract]
        self.loop.kill()
        self.paused = False
        self.ready = False
        self.faults = 0.0
        self.running: dict[str, asyncio.Task[Any]] = {}

    @property
    def alive(self) -> bool:
        return not self.loop.dead

    # -- a life

    def start(self) -> None:
        """Begin a life with what the disk holds."""
        self.forget()
        world = self.world
        self.loop = ProcessLoop(world.rng, world.clock)  # type: ignore[abstract]
        self.loop.process = self  # type: ignore[attr-defined]
        self.producer = Producer(world.kafka, world.next_number())
        self.consumer = Consumer(self.number, world.kafka, world.group, world.rng)
        self.consumer.faults = self.faults
        stream = world.subject.stream
        self.blocks = MemoryStore(stream.blocks_table, self.disk, packed=False)
        self.rows = MemoryStore(stream.rows_table, self.disk, packed=True)
        app = SimpleNamespace(consumer=self.consumer, producer=SimpleNamespace(_ensure_producer=lambda: self.producer))
        tables = StreamTables(
            stream,
            SimpleNamespace(name=stream.blocks_table, data=self.blocks, app=app),
            SimpleNamespace(name=stream.rows_table, data=self.rows, app=app),
        )
        self.protocol: CountingProtocol = world.protocol_class(
            tables, world.subject.fold, SETTINGS, metrics=Unmeasured(), clock=world.clock
        )
        self.queue: list[Any] = []
        self.paused = self.ready = False
        self.running = {}
        self.begin("membership", self._be_member())

    def forget(self) -> None:
        """Let go of what a life had in memory."""
        if "protocol" in self.__dict__:
            self.protocol.__dict__.clear()
            self.running.clear()

    def kill(self) -> None:
        """End as by SIGKILL: memory is gone, the disk holds an older prefix, what was sent may arrive or not."""
        self.loop.kill()
        self.ready = False
        for database in self.disk.values():
            database.crash(self.world.rng)
        self.world.kafka.lose(self.producer.number, self.world.rng)

    def end(self, error: BaseException) -> None:
        """End as the guard ends a process; only Kafka may be the reason, or a source that forgets.

        A store that lags behind the changelog may take that for a loss; the next start has read more.
        """
        if not isinstance(error, (KafkaUnavailableError, LostEventsError)):
            self.world.report(f"worker {self.number} ended itself: {error!r}")
        self.kill()

    def begin(self, name: str, coro: Coroutine[Any, Any, Any]) -> None:
        """Start a task of the process."""
        self.running[name] = self.loop.start(coro)

    def is_idle(self, name: str) -> bool:
        """Return whether a task of that name may start; what an earlier one raised is a failure of the schedule."""
        task = self.running.get(name)
        if task is None:
            return True
        if not task.done():
            return False
        del self.running[name]
        error = task.exception()
        if error is not None and not isinstance(error, ProcessEndedError):
            self.world.report(f"{name} of worker {self.number} raised {error!r}")
        return True

    # -- what the scheduler starts

    def act(self, choice: float, *, idly: bool) -> None:
        """Start one of the things that a worker does by itself, *choice* in [0, 1) says which.

        Args:
            idly: start it even where there is nothing to do.
        """
        if choice < 0.45:
            if self.queue and self.is_idle("agent"):
                self.begin("agent", self._count())
        elif choice < 0.7:
            if self.consumer.assigned and (idly or self.consumer.may_fetch()) and self.is_idle("fetcher"):
                self.begin("fetcher", self._fetch())
        elif choice < 0.78:
            if self.ready and (idly or self.is_dirty()) and self.is_idle("partials"):
                self.begin("partials", self._send_partials())
        elif choice < 0.86:
            if (idly or self.consumer._acked) and self.is_idle("commit"):
                self.begin("commit", self.consumer.commit())
        elif self.must_rejoin() and self.is_idle("membership"):
            self.ready = False
            self.begin("membership", self._be_member())

    def is_dirty(self) -> bool:
        """Return whether an open bucket has changed since it was last told."""
        return any(state.dirty for state in self.protocol.states.values())

    def is_behind(self) -> bool:
        """Return whether there is something that was not fetched or not handed over yet."""
        ends = self.world.kafka.ends
        return bool(self.queue) or any(
            self.consumer._position.get(tp, -1) != ends[tp.partition] for tp in self.consumer.assigned
        )

    def has_counted(self, partition: int, end: int) -> bool:
        """Return whether everything before *end* is counted, stored and told, and nothing is under way."""
        tp = self.world.subject.sources[partition]
        if not self.ready or self.queue or not (self.is_idle("agent") and self.is_idle("partials")):
            return False
        if self.consumer._position.get(tp) != end or self.protocol.state(partition).dirty:
            return False
        return self.consumer.acknowledged(tp) in (None, end)

    def must_rejoin(self) -> bool:
        """Return whether the coordinator wants this worker to join (again)."""
        group = self.world.group
        outdated = self.number not in group.members or self.consumer.app.consumer_generation_id != group.generation
        return (group.rebalancing or outdated) and self.number not in group.waiting

    # -- what they do

    async def _be_member(self) -> None:
        """Give back what is owned, join, recover and seek: the way of Faust through a rebalance."""
        consumer, group, subject = self.consumer, self.world.group, self.world.subject
        await consumer.on_partitions_revoked(set(consumer.assigned))
        consumer.flow_active = False
        if self.world.rng.random() < 0.5:
            self.queue.clear()
        generation, partitions = await group.join(self.number)
        consumer.app.consumer_generation_id = generation
        consumer.assigned = {subject.sources[partition] for partition in partitions}
        consumer._set_active_tps(consumer.assigned)
        consumer.pause_partitions(consumer.assigned)
        await asyncio.sleep(0)
        for store, topic in ((self.blocks, subject.blocks), (self.rows, subject.rows)):
            for partition in [partition for partition in store.owned() if partition not in partitions]:
                store.close(partition)
            for partition in partitions:
                store.open(partition)
                await self._recover(store, topic, partition)
            self.protocol.offset_keys.reset()
        if self.must_rejoin():
            return
        consumer.flow_active = True
        consumer.resume_partitions(consumer.assigned)
        await asyncio.sleep(0)  # fetches may come in between: race (a) of the prototype
        await consumer.perform_seek()
        self.ready = True

    async def _recover(self, store: MemoryStore, topic: str, partition: int) -> None:
        """Apply the changelog from the offset that the store remembers to its end, as it was at the start."""
        log = self.world.kafka.logs[topic, partition]
        persisted, end = store.persisted_offset(self.world.subject.sources[partition]), log.end
        position = 0 if persisted is None else persisted + 1
        while position < end:
            entries = [entry for entry in log.read(position, RECOVERED_AT_ONCE_MAX) if entry.offset < end]
            if not entries:
                return
            store.apply_changelog_batch([SimpleNamespace(message=entry) for entry in entries], unchanged, unchanged)
            position = entries[-1].offset + 1
            await asyncio.sleep(0)

    async def _fetch(self) -> None:
        """Do one round of Faust's fetcher; a batch may get lost between it and the agent (fs#596)."""
        async for _, message in self.consumer.getmany(0.1):
            if self.world.rng.random() >= self.faults:
                self.queue.append(message)

    async def _count(self) -> None:
        """Hand over what waits, as agents/count.py does."""
        while self.queue:
            message = self.queue.pop(0)
            event = SimpleNamespace(message=message, ack=lambda message=message: self.consumer.ack(message))
            async with guard():
                await self.protocol.count(event)

    async def _send_partials(self) -> None:
        """Do what the timer of agents/timers.py does."""
        async with guard():
            await self.protocol.check_beginnings()
            await self.protocol.send_partials(keep_alive_s=SILENT_S if self.world.rng.random() < 0.9 else 0.0)
