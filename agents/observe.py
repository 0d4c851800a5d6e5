"""Measure what the protocol does, a batch at a time; it decides nothing."""

from __future__ import annotations

import logging
from typing import NamedTuple

from agents.guard import DeadLetterShare
from streams.clock import Clock
from streams.metrics import WorkerMetrics
from streams.partitioner import partition_of
from streams.runs import Run
from tables.fold import Refused
from tables.profiles import DUPLICATE, user_of

log = logging.getLogger(__name__)

ROUTING_SAMPLE_ROWS = 64
"""The first row of a batch and every so many more are checked, so that even a trickle is seen at once."""
NOTE_INTERVAL_S = 600.0
VIEW_STAGE = "ingest_to_view"


class Found(NamedTuple):
    """What one batch held.

    Attributes:
        records: all of them.
        refused: those that became dead letters.
        duplicates: those that came before; of these, *new_duplicates* were not judged by an earlier life.
    """

    records: int
    refused: list[Refused]
    duplicates: int = 0
    new_duplicates: int = 0


class BatchObserver:
    """Counts batches for `/metrics`, and keeps the share of dead letters."""

    def __init__(self, topic: str, share: DeadLetterShare, *, partitions: int, metrics: WorkerMetrics, clock: Clock) -> None:
        self._topic = topic
        self._share = share
        self._partitions = partitions
        self._metrics = metrics
        self._clock = clock
        self._warned = False
        self._noted_at_s: dict[int, float] = {}
        self._share_shown = metrics.dead_letter_share.labels(topic)
        self._duplicates = metrics.duplicates.labels(topic)
        self._view_latency = metrics.view_latency.labels(VIEW_STAGE)

    def folded(self, runs: list[Run], found: Found, *, known: int) -> None:
        """Count one folded batch.

        Args:
            known: offset before which an earlier life has judged everything: it let those dead letters through.

        Raises:
            DeadLetterLimitError: too many of the last records are dead letters; the batch may not be acknowledged.
        """
        metrics, refused, records, dead = self._metrics, found.refused, found.records, len(found.refused)
        new = [each for each in refused if each.offset >= known]
        new_records = min(records, max(0, runs[-1].end - known))
        self._share.add(records=new_records, dead=len(new), last=new[-1] if new else None)
        self._share_shown.set(self._share.share)
        metrics.batch_records.observe(records)
        metrics.events.labels(self._topic, "counted").inc(records - dead - found.duplicates)
        metrics.events.labels(self._topic, "dead_letter").inc(dead)
        if found.duplicates:
            metrics.events.labels(self._topic, "duplicate").inc(found.duplicates)
            self._duplicates.inc(found.new_duplicates)
        for each in refused:
            metrics.dead_letters.labels(each.reason.value).inc()
        if runs[-1].records:
            metrics.event_age.observe(max(0, self._clock.now_ms() - runs[-1].records[-1].timestamp) / 1000)

    def shown(self, arrived_ms: int) -> None:
        """Note that blocks are stored whose oldest record Kafka took at *arrived_ms*; 0 for blocks that show nothing new."""
        if arrived_ms:
            self._view_latency.observe(max(0, self._clock.now_ms() - arrived_ms) / 1000)

    def sees_misrouted(self, partition: int, rows: list[bytes]) -> bool:
        """Look at a sample of a batch: say whether a producer put a user elsewhere than murmur2 would, and it is to be noted.

        Where that is the rule, as of Labs' transactions, it is noted now and then only: a recovery goes by the record.
        """
        sample = [key for key in rows[:: 2 * ROUTING_SAMPLE_ROWS] if not key.startswith(DUPLICATE)]
        misrouted = sum(partition_of(user_of(key), self._partitions) != partition for key in sample)
        if misrouted:
            self._metrics.misrouted.labels(self._topic).inc(misrouted)
            self._warn_of_misrouted(partition)
        now_s = self._clock.monotonic_s()
        is_due = misrouted > 0 and now_s - self._noted_at_s.get(partition, -NOTE_INTERVAL_S) >= NOTE_INTERVAL_S
        if is_due:
            self._noted_at_s[partition] = now_s
        return is_due

    def _warn_of_misrouted(self, partition: int) -> None:
        if not self._warned:
            self._warned = True
            log.warning(
                "a producer of %s does not use the murmur2 partitioner with the user as key (seen in partition %d): profiles "
                "are now asked for everywhere, which costs a request a worker; set partitioner=murmur2_random in librdkafka; "
                "of transactions, whose key is the product, this is the rule",
                self._topic, partition,
            )  # fmt: skip


def arrival_ms(runs: list[Run]) -> int:
    """Return when Kafka took the first record of a delivery, Unix milliseconds; 0 where it has none."""
    return next((run.records[0].timestamp for run in runs if run.records), 0)
