"""Say how the sinks are: metrics, signs of life, and one log line where an outage starts and where it ends."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import psycopg
from kafka.errors import KafkaError
from kafka.structs import TopicPartition

from sinks.batch import Batch
from sinks.forward import Forward
from sinks.health import Health
from sinks.postgres import Postgres, class_of
from sinks.writers import Place, Written
from streams.clock import Clock
from streams.lag import LagClock
from streams.metrics import SinkMetrics
from streams.topics import DEAD_LETTERS

log = logging.getLogger(__name__)

SERVICES = ("kafka", "postgres")
POSTGRES_STAGE = "changelog_to_postgres"
LOOK_INTERVAL_S = 5.0
ASK_TIMEOUT_MS = 2_000
BOUNDS_TIMEOUT_MS = 15_000


def show_health(metrics: SinkMetrics, health: Health) -> None:
    """Show from the start on whether Kafka and Postgres answer; they are asked when somebody looks."""
    metrics.ready.set_function(lambda: not health.missing())
    for service in SERVICES:
        metrics.dependency_up.labels(service).set_function(partial(_is_up, health, service))


def _is_up(health: Health, service: str) -> bool:
    return service not in health.missing()


class Observer:
    """Watches one loop; called by its thread only.

    Attributes:
        clock: the loop's too.
        forward: what may not be written yet; it is no lag.
    """

    def __init__(self, consumer: Any, postgres: Postgres, *, metrics: SinkMetrics, health: Health, clock: Clock) -> None:
        self._consumer = consumer
        self._postgres = postgres
        self._metrics = metrics
        self._health = health
        self.clock = clock
        self._looked_at_s = float("-inf")
        self._outages: dict[str, float] = {}
        self._lags: dict[Place, LagClock] = {}
        self._latency = metrics.latency.labels(POSTGRES_STAGE)
        self.forward = Forward()

    def is_due(self) -> bool:
        """Return whether it is time to look again."""
        return self.clock.monotonic_s() - self._looked_at_s >= LOOK_INTERVAL_S

    def look(self, batch: Batch, days_ahead: Callable[[], Mapping[str, int]]) -> None:
        """Ask Kafka and Postgres for a sign of life, set the lag of what waits, and how many days there is room for."""
        self.look_at_kafka(batch)
        try:
            self._postgres.ping()
            for table, days in days_ahead().items():
                self._metrics.partitions_ahead.labels(table).set(days)
        except psycopg.Error as error:
            self.failed("postgres", error, type(error).__name__)
        else:
            self.recovered()

    def look_at_kafka(self, batch: Batch) -> None:
        """Ask Kafka for a sign of life, and set the lag: while Postgres is down it grows, and somebody wants to see that."""
        self._looked_at_s = self.clock.monotonic_s()
        positions = batch.start
        places = [TopicPartition(*place) for place in positions] or [TopicPartition(DEAD_LETTERS, 0)]
        try:
            ends = self._consumer.end_offsets(places, timeout_ms=ASK_TIMEOUT_MS)
        except KafkaError as error:
            self.failed("kafka", error, f"no answer within {ASK_TIMEOUT_MS} ms")
        else:
            self._recovered("kafka")
            self._health.kafka_answered()
            self.lag({Place(*place): end for place, end in ends.items()}, positions, arrived_ms=batch.arrived_ms)

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

    def lag(
        self, ends: Mapping[Place, int], positions: Mapping[Place, int], *, arrived_ms: Mapping[Place, int] | None = None
    ) -> int:
        """Set the lag by partition and return the sum; partitions that are no longer ours are left out.

        Args:
            arrived_ms: when the first record that waits was written, Unix time, where that has been read.
        """
        ends = {place: self.forward.due_end(place, end) for place, end in ends.items()}
        gauges = (self._metrics.lag, self._metrics.lag_seconds)
        for place in {*self._lags}.difference(positions):
            del self._lags[place]
            for gauge in gauges:
                gauge.remove(place.topic, str(place.partition))
        for place, position in positions.items():
            self._show_lag(place, position, ends.get(place, 0), (arrived_ms or {}).get(place))
        return sum(max(0, ends.get(place, 0) - position) for place, position in positions.items())

    def _show_lag(self, place: Place, position: int, end: int, arrived_ms: int | None) -> None:
        arrived_s = None if arrived_ms is None else arrived_ms / 1000
        clock = self._lags.setdefault(place, LagClock())
        seconds = clock.seconds(position, end, now_s=self.clock.now_ms() / 1000, arrived_at_s=arrived_s)
        labels = (place.topic, str(place.partition))
        self._metrics.lag.labels(*labels).set(max(0, end - position))
        self._metrics.lag_seconds.labels(*labels).set(seconds)

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
        for table, rows in written.copies:
            self._metrics.copy_rows.labels(table).observe(rows)
        self._metrics.seconds.observe(seconds)
        self._metrics.records.observe(batch.records)
        self._metrics.last_success.set(self.clock.now_ms() / 1000)
        if batch.arrived_ms:
            self._latency.observe(max(0, self.clock.now_ms() - min(batch.arrived_ms.values())) / 1000)
        if written.refused:
            log.error("put %d dead letters aside instead of writing them", len(written.refused))

    def letters_failed(self) -> None:
        """Count a try to put refused rows among the dead letters that failed: nothing is written until it works."""
        self._metrics.letter_failures.inc()

    def failed(self, service: str, error: Exception, message: str) -> None:
        """Count a failed try; the first of an outage is logged."""
        if isinstance(error, psycopg.Error):
            self._metrics.retries.labels(class_of(error)).inc()
            if isinstance(error, psycopg.OperationalError) and class_of(error) in ("none", "08", "57"):
                self._health.postgres_failed()
        if service not in self._outages:
            self._outages[service] = self.clock.monotonic_s()
            log.warning("%s does not take what we have; trying until it does: %s", service, message)

    def recovered(self) -> None:
        """Note that Postgres answers."""
        self._health.postgres_answered()
        self._recovered("postgres")

    def _recovered(self, service: str) -> None:
        since_s = self._outages.pop(service, None)
        if since_s is not None:
            log.warning("%s is back after %.1f s", service, self.clock.monotonic_s() - since_s)
