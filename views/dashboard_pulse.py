"""Remember each second how far this worker is, so that the page can say up to when everything is counted.

*Counted up to* is an instant, of each partition: the last look at which the log ended no later than what is counted now. All
that Kafka had taken by then is in the tables, whatever time the events themselves tell, and a silent partition is up to date.
It is at most a second older than the truth. As far back as a look is remembered; None before.

The same for Postgres: with each look the changelog's offset is kept, so that what the sinks have applied tells which look they
have reached.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from faust.types import TP

from streams.clock import Clock
from streams.metrics import WorkerMetrics
from streams.topics import changelog_of
from tables.registry import StreamTables
from tables.store import Store

LOOK_INTERVAL_S = 1.0
LOOKS_MAX = 900
"""A lag of so many seconds still has its instant."""
WRITTEN_LOOKS_MAX = 60
RATE_LOOKS = 5
"""Rates are those of the last so many seconds: batches come in bursts."""
MINUTE_LOOKS = 60


class Look(NamedTuple):
    """Where the log of a partition ended."""

    at_ms: int
    end: int


class Written(NamedTuple):
    """Up to when everything is in Postgres once it has applied the changelog's record of this offset."""

    offset: int
    counted_up_to_ms: int


@dataclass(slots=True)
class Partition:
    """What is remembered of one partition."""

    looks: deque[Look] = field(default_factory=lambda: deque(maxlen=LOOKS_MAX))
    written: deque[Written] = field(default_factory=lambda: deque(maxlen=WRITTEN_LOOKS_MAX))

    def counted_up_to_ms(self, counted: int) -> int | None:
        """Return the instant up to which everything before an offset has arrived."""
        return next((look.at_ms for look in reversed(self.looks) if look.end <= counted), None)


class Figures(NamedTuple):
    """Counters of this process at one look."""

    at_s: float
    counted: float
    dead_letters: float


class Pulse:
    """What one worker knows of itself."""

    def __init__(self, tables: StreamTables, metrics: WorkerMetrics, clock: Clock) -> None:
        self.tables = tables
        self._metrics = metrics
        self._clock = clock
        self._changelog = changelog_of(tables.stream.blocks_table)
        self._partitions: dict[int, Partition] = {}
        self._figures: deque[Figures] = deque(maxlen=MINUTE_LOOKS + 1)

    def look(self) -> None:
        """Look once; every second."""
        store = self.tables.block_store
        owned = store.owned()
        for gone in self._partitions.keys() - set(owned):
            del self._partitions[gone]
        for partition in owned:
            end = self._log_end(partition)
            if end is not None:
                mine = self._partitions.setdefault(partition, Partition())
                mine.looks.append(Look(self._clock.now_ms(), end))
                self._note_written(store, partition, mine)
        dead_letters = _total(self._metrics.events, self.tables.stream.topic, "dead_letter")
        counted = _total(self._metrics.events, self.tables.stream.topic, "counted")
        self._figures.append(Figures(self._clock.monotonic_s(), counted, dead_letters))

    def _note_written(self, store: Store, partition: int, mine: Partition) -> None:
        persisted: int | None = store.persisted_offset(TP(self._changelog, partition))
        offset = -1 if persisted is None else persisted
        up_to_ms = mine.counted_up_to_ms(counted_of(store, partition))
        if up_to_ms is not None:
            if mine.written and mine.written[-1].offset == offset:
                mine.written.pop()  # nothing new in the changelog, and yet everything is counted up to now
            mine.written.append(Written(offset, up_to_ms))

    def _log_end(self, partition: int) -> int | None:
        end: int | None = self.tables.blocks.app.consumer.highwater(TP(self.tables.stream.topic, partition))
        return end

    def as_of_ms(self, partitions: Iterable[int]) -> int | None:
        """Return up to when everything of owned partitions is in the tables; None where that is not known."""
        instants = [self._place(partition)["counted_up_to_ms"] for partition in partitions]
        return None if None in instants else min(instants, default=None)

    def _place(self, partition: int) -> dict[str, Any]:
        mine = self._partitions.get(partition, Partition())
        counted, end = counted_of(self.tables.block_store, partition), self._log_end(partition)
        return {
            "partition": partition,
            "position": counted,
            "lag_records": None if end is None else max(0, end - counted),
            "counted_up_to_ms": mine.counted_up_to_ms(counted),
        }

    async def answer(self, partitions: list[int]) -> dict[str, Any]:
        """Return what the page shows of this worker and of partitions that it owns."""
        return {
            "events_per_s": self._rate(lambda figures: figures.counted, RATE_LOOKS),
            "dead_letters": self._figures[-1].dead_letters if self._figures else 0,
            "dead_letters_per_minute": 60 * self._rate(lambda figures: figures.dead_letters, MINUTE_LOOKS),
            "partitions": [self._place(partition) for partition in partitions],
        }

    async def written(self, partitions: list[int]) -> dict[int, list[Written]]:
        """Return by partition what offset of the changelog means what instant, the newest last."""
        return {partition: list(self._partitions.get(partition, Partition()).written) for partition in partitions}

    def _rate(self, of: Callable[[Figures], float], looks: int) -> float:
        """Return how much a counter has grown a second over the last looks."""
        if len(self._figures) < 2:
            return 0.0
        last, first = self._figures[-1], self._figures[max(-len(self._figures), -looks - 1)]
        return round((of(last) - of(first)) / max(last.at_s - first.at_s, 1e-3), 2)


def counted_of(store: Store, partition: int) -> int:
    """Return the offset before which a partition is counted; 0 where nothing is stored."""
    progress = store.progress(partition)
    return 0 if progress is None else progress.through + 1


def _total(counter: Any, topic: str, result: str) -> float:
    """Return a counter's value for one topic and result; 0 before its first event."""
    samples = (sample for metric in counter.collect() for sample in metric.samples)
    return float(sum(sample.value for sample in samples if sample.labels == {"topic": topic, "result": result}))
