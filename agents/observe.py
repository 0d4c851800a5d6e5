"""Measure what the protocol does, a batch at a time; it decides nothing."""

from __future__ import annotations

import logging

from agents.guard import DeadLetterShare
from streams.clock import Clock
from streams.metrics import WorkerMetrics
from streams.partitioner import partition_of
from streams.runs import Run
from tables.fold import Refused
from tables.profiles import user_of

log = logging.getLogger(__name__)

ROUTING_SAMPLE_ROWS = 64
"""The first row of a batch and every so many more are checked, so that even a trickle is seen at once."""
VIEW_STAGE = "ingest_to_view"


class BatchObserver:
    """Counts batches for `/metrics`, and keeps the share of dead letters."""

    def __init__(self, topic: str, share: DeadLetterShare, *, partitions: int, metrics: WorkerMetrics, clock: Clock) -> None:
        self._topic = topic
        self._share = share
        self._partitions = partitions
        self._metrics = metrics
        self._clock = clock
        self._warned = False
        self._view_latency = metrics.view_latency.labels(VIEW_STAGE)

    def folded(self, runs: list[Run], *, records: int, new_records: int, refused: list[Refused], new: list[Refused]) -> None:
        """Count one folded batch; *new_records* and *new* are what no earlier life of the worker has judged.

        Raises:
            DeadLetterLimitError: too many of the last records are dead letters; the batch may not be acknowledged.
        """
        metrics, dead = self._metrics, len(refused)
        self._share.add(records=new_records, dead=len(new), last=new[-1] if new else None)
        metrics.dead_letter_share.set(self._share.share)
        metrics.batch_records.observe(records)
        metrics.events.labels("counted").inc(records - dead)
        metrics.events.labels("dead_letter").inc(dead)
        for each in refused:
            metrics.dead_letters.labels(each.reason.value).inc()
        if runs[-1].records:
            metrics.event_age.observe(max(0, self._clock.now_ms() - runs[-1].records[-1].timestamp) / 1000)

    def shown(self, arrived_ms: int) -> None:
        """Note that blocks are stored whose oldest record Kafka took at *arrived_ms*; 0 for blocks that show nothing new."""
        if arrived_ms:
            self._view_latency.observe(max(0, self._clock.now_ms() - arrived_ms) / 1000)

    def sees_misrouted(self, partition: int, rows: list[bytes]) -> bool:
        """Look at a sample of a batch: say whether a producer put a user elsewhere than murmur2 would."""
        sample = rows[:: 2 * ROUTING_SAMPLE_ROWS]
        misrouted = sum(partition_of(user_of(key), self._partitions) != partition for key in sample)
        if misrouted:
            self._metrics.misrouted.labels(self._topic).inc(misrouted)
            self._warn_of_misrouted(partition)
        return misrouted > 0

    def _warn_of_misrouted(self, partition: int) -> None:
        if not self._warned:
            self._warned = True
            log.warning(
                "a producer of %s does not use the murmur2 partitioner (seen in partition %d): profiles are now asked for "
                "everywhere, which costs a request a worker; set partitioner=murmur2_random in librdkafka",
                self._topic, partition,
            )  # fmt: skip


def arrival_ms(runs: list[Run]) -> int:
    """Return when Kafka took the first record of a delivery, Unix milliseconds; 0 where it has none."""
    return next((run.records[0].timestamp for run in runs if run.records), 0)
