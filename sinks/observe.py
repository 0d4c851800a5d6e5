"""Say how the sinks are: metrics, signs of life, and one log line where an outage starts and where it ends."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import psycopg
from kafka.errors import KafkaError
from kafka.structs import TopicPartition

from sinks.batch import Batch
from sinks.health import Health
from sinks.postgres import Postgres, class_of
from sinks.writers import Place, Written
from streams.clock import Clock
from streams.metrics import SinkMetrics
from streams.topics import DEAD_LETTERS

log = logging.getLogger(__name__)

LOOK_INTERVAL_S = 5.0
ASK_TIMEOUT_MS = 2_000
BOUNDS_TIMEOUT_MS = 15_000


class Observer:
    """Watches one loop; called by its thread only."""

    def __init__(self, consumer: Any, postgres: Postgres, *, metrics: SinkMetrics, health: Health, clock: Clock) -> None:
        self._consumer = consumer
        self._postgres = postgres
        self._metrics = metrics
        self._health = health
        self._clock = clock
        self._looked_at_s = float("-inf")
        self._outages: dict[str, float] = {}
        self._lagging: set[Place] = set()

    def is_due(self) -> bool:
        """Return whether it is time to look again."""
        return self._clock.monotonic_s() - self._looked_at_s >= LOOK_INTERVAL_S

    def look(self, positions: Mapping[Place, int]) -> None:
        """Ask Kafka and Postgres for a sign of life, and set the lag; *positions* are the next offsets of our partitions."""
        self._looked_at_s = self._clock.monotonic_s()
        places = [TopicPartition(*place) for place in positions] or [TopicPartition(DEAD_LETTERS, 0)]
        try:
            ends = self._consumer.end_offsets(places, timeout_ms=ASK_TIMEOUT_MS)
        except KafkaError as error:
            self.failed("kafka", error, f"no answer within {ASK_TIMEOUT_MS} ms")
        else:
            self._recovered("kafka")
            self._health.kafka_answered()
            self.lag({Place(*place): end for place, end in ends.items()}, positions)
        try:
            self._postgres.ping()
        except psycopg.Error as error:
            self.failed("postgres", error, type(error).__name__)
        else:
            self.recovered()

    def bounds(self, places: Iterable[Place]) -> tuple[dict[Place, int], dict[Place, int]]:
        """Return the first and the end offset of each place.

        Raises:
            KafkaError: no answer in time.
        """
        asked = [TopicPartition(*place) for place in places]
        firsts = self._consumer.beginning_offsets(asked, timeout_ms=BOUNDS_TIMEOUT_MS)
        ends = self._consumer.end_offsets(asked, timeout_ms=BOUNDS_TIMEOUT_MS)
        self._recovered("kafka")
        self._health.kafka_answered()
        return {Place(*place): at for place, at in firsts.items()}, {Place(*place): at for place, at in ends.items()}

    def lag(self, ends: Mapping[Place, int], positions: Mapping[Place, int]) -> int:
        """Set the lag by partition and return the sum; partitions that are no longer ours are left out."""
        for place in self._lagging.difference(positions):
            self._metrics.lag.remove(place.topic, str(place.partition))
        self._lagging = set(positions)
        behind = {place: max(0, ends.get(place, 0) - position) for place, position in positions.items()}
        for place, records in behind.items():
            self._metrics.lag.labels(place.topic, str(place.partition)).set(records)
        return sum(behind.values())

    def wrote(self, batch: Batch, written: Written, seconds: float) -> None:
        """Count a committed transaction."""
        self.recovered()
        for (table, what), count in written.counts.items():
            if what == "superseded":
                self._metrics.superseded.labels(table).inc(count)
            elif what == "refused":
                self._metrics.refused.labels(table).inc(count)
            else:
                self._metrics.rows.labels(table, what).inc(count)
        self._metrics.seconds.observe(seconds)
        self._metrics.records.observe(batch.records)
        self._metrics.last_success.set(self._clock.now_ms() / 1000)
        if written.refused:
            log.error("put %d dead letters aside instead of writing them", len(written.refused))

    def failed(self, service: str, error: Exception, message: str) -> None:
        """Count a failed try; the first of an outage is logged."""
        if isinstance(error, psycopg.Error):
            self._metrics.retries.labels(class_of(error)).inc()
            if isinstance(error, psycopg.OperationalError) and class_of(error) in ("none", "08", "57"):
                self._health.postgres_failed()
        if service not in self._outages:
            self._outages[service] = self._clock.monotonic_s()
            log.warning("%s does not take what we have; trying until it does: %s", service, message)

    def recovered(self) -> None:
        """Note that Postgres answers."""
        self._health.postgres_answered()
        self._recovered("postgres")

    def _recovered(self, service: str) -> None:
        since_s = self._outages.pop(service, None)
        if since_s is not None:
            log.warning("%s is back after %.1f s", service, self._clock.monotonic_s() - since_s)
