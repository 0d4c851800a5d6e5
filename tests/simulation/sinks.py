"""Play a sinks process around the product's loop: the consumer of kafka-python and the group are played, all else is real.

`SinkLoop`, `Batch`, both writers and their COPY text run as they are, on the played Postgres. The loop is not a coroutine:
where it does I/O it calls `interrupt`, and there the scheduler runs other processes before it comes back, or kills this one.
So a sink that is stopped in the middle of a transaction is one that others run inside of; what another sink cannot wait
for, because it runs inside of the holder of a lock, ends with a rebalance, which lets it drop its batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from types import SimpleNamespace
from typing import Any

from kafka.structs import TopicPartition

from sinks.blocks import BlockWriter
from sinks.loop import SinkLoop
from sinks.profiles import RowWriter
from sinks.writers import Place
from streams.topics import USER_TAGS
from tests.simulation.events import PARTITIONS
from tests.simulation.kafka import BLOCKS, ROWS, Entry, Kafka
from tests.simulation.loop import ProcessEndedError
from tests.simulation.postgres import Server
from tests.simulation.workers import SETTINGS

PLACES = [Place(topic, partition) for topic in (BLOCKS, ROWS) for partition in range(PARTITIONS)]
POLLED_MAX = 6
QUIET_POLLED_MAX = 100
ONE_DAY = date(2026, 3, 1)
SINK_SETTINGS = SETTINGS.sinks.model_copy(update={"batch_rows_max": 24, "flush_interval_s": 0.5})
"""Few rows a transaction, so that a schedule has several."""


class OneDay:
    """Stand for the day partitions: retention is no part of this."""

    def ensure(self, connection: Any, days: Any) -> None:
        """Take note of nothing."""

    def arrival_day(self, timestamp: int) -> date:
        return ONE_DAY


DAYS: Any = OneDay()
WRITERS: Sequence[Any] = (BlockWriter(USER_TAGS, DAYS), RowWriter(USER_TAGS, DAYS))
"""They hold no state that a second delivery could see, so all schedules share them."""


class SinkConsumer:
    """The part of kafka-python's consumer that the loop uses.

    Attributes:
        assigned: partitions of this process in the group.
        position: next offset that is polled, by place; set anywhere by a new assignment, until the loop seeks.
    """

    def __init__(self, kafka: Kafka, rng: Any, interrupt: Any) -> None:
        self._kafka = kafka
        self._rng = rng
        self._interrupt = interrupt
        self._paused: set[Any] = set()
        self.polled_max = POLLED_MAX
        self.assigned: list[Place] = []
        self.position: dict[Place, int] = {}
        self.listener: Any = None

    def subscribe(self, topics: Any, listener: Any) -> None:
        self.listener = listener
        listener.on_partitions_revoked([])

    def unsubscribe(self) -> None:
        """Take note of nothing: the group is played by the scheduler."""

    def assign(self, places: list[Place]) -> None:
        """Give new partitions, as the group does between two calls of this process."""
        self.listener.on_partitions_revoked(self.assigned)
        self.assigned = places
        self._paused.clear()
        self.position = {place: int(self._rng.random() * (self._kafka.logs[place].end + 1)) for place in places}
        self.listener.on_partitions_assigned(places)

    def assignment(self) -> set[TopicPartition]:
        return {TopicPartition(*place) for place in self.assigned}

    def poll(self, timeout_ms: int, max_records: int) -> dict[Place, list[Entry]]:
        self._interrupt("poll")
        polled: dict[Place, list[Entry]] = {}
        for place in self.assigned:
            if place not in self._paused:
                entries = self._kafka.logs[place].read(self.position[place], min(max_records, self.polled_max))
                if entries:
                    polled[place] = entries
                    self.position[place] = entries[-1].offset + 1
        return polled

    def seek(self, place: TopicPartition, offset: int) -> None:
        self.position[self._known(place)] = offset

    def resume(self, *places: TopicPartition) -> None:
        self._paused.difference_update([self._known(place) for place in places])

    def pause(self, *places: TopicPartition) -> None:
        self._paused.update([self._known(place) for place in places])

    def _known(self, place: TopicPartition) -> Place:
        if place not in self.assigned:
            raise KeyError(place)
        return Place(*place)

    def commit_async(self, offsets: Any, callback: Any) -> None:
        """Take note of nothing: nothing reads these commits."""


class Sink:
    """One sinks process; a life that was ended is followed by another one."""

    def __init__(self, number: int, world: Any) -> None:
        self.number = number
        self.world = world
        self.busy = False
        self.alive = False
        self.doomed = False
        self.faults = 0.0

    def start(self) -> None:
        """Begin a life."""
        world = self.world
        self.alive, self.doomed = True, False
        self.server = Server(world.tables, self.interrupt)
        self.consumer = SinkConsumer(world.kafka, world.rng, self.interrupt)
        self.stop = SimpleNamespace(is_set=lambda: False, wait=lambda timeout: None)
        nothing = lambda *args, **kwargs: None  # noqa: E731 - what an observer of nothing does
        observer = SimpleNamespace(
            is_due=lambda: False, bounds=self._bounds, lag=lambda *args: 0, recovered=nothing, failed=nothing, wrote=nothing
        )
        self.loop: SinkLoop = world.sink_class(
            consumer=self.consumer, postgres=self.server, writers=WRITERS, letters=SimpleNamespace(send=self._refuse_letters),
            retention=SimpleNamespace(is_due=lambda: False, forget=nothing), observer=observer, settings=SINK_SETTINGS,
            clock=SimpleNamespace(now_ms=world.clock.now_ms, monotonic_s=self._tick_s), stop=self.stop,
        )  # fmt: skip
        self.loop._by_topic = {writer.topic: writer for writer in WRITERS}
        self.loop._subscribe()

    def _tick_s(self) -> float:
        """Return the time, which goes on while a sink waits: it is not a coroutine and cannot let the scheduler do it."""
        self.world.clock.now_s += 0.1
        return float(self.world.clock.now_s)

    def _bounds(self, places: list[Place]) -> tuple[dict[Place, int], dict[Place, int]]:
        self.interrupt("bounds")
        return dict.fromkeys(places, 0), {place: self.world.kafka.logs[place].end for place in places}

    def _refuse_letters(self, letters: Any) -> None:
        self.world.report(f"the sinks refused {letters!r}")

    def run_once(self) -> None:
        """Let the loop do one round, as `SinkLoop.run` does."""
        self.busy = True
        if self.world.quiet:
            self.consumer.polled_max = QUIET_POLLED_MAX
        try:
            self.loop._step()
        except ProcessEndedError:
            self.kill()
        finally:
            self.busy = False

    def kill(self) -> None:
        """End the process: its session's open transaction is undone."""
        self.alive = False
        session = self.server._session
        if session is not None:
            session.roll_back()

    def interrupt(self, where: str) -> None:
        """Be interrupted at I/O: others run, the connection breaks, or the process is killed."""
        self.world.run_others(self)
        if self.doomed:
            raise ProcessEndedError
        if where == "poll" and self.server.locked_out:
            self.server.locked_out = False
            self.consumer.assign(self.consumer.assigned)
        if self.faults and where not in ("poll", "bounds") and self.world.rng.random() < self.faults:
            raise self.server.lose_connection()
