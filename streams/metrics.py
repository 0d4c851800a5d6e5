"""Name every metric once, by process: base units, closed label values, never a user.

Each process makes its own class on a registry of its own, so that `/metrics` shows what the process really measures. They
are updated by batch or by request, never by event.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from hashlib import sha256
from importlib.metadata import version as version_of

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from streams.settings import Settings
from streams.version import VERSION

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
LATENCY_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
AGE_S = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600, 86400)
RARE_S = (0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900, 3600)
"""Of what happens seldom and takes long: recoveries, rebalances, the way of an event into Postgres."""
RECORDS = (1, 10, 100, 500, 1000, 2500, 5000, 10000, 25000, 50000, 100000)

SHOWN_SETTINGS = ("topics.partitions", "topics.retention_s", "worker.horizon_s", "dead_letters.share_max")
"""Those that an alert compares something with."""
COMMON_SECTIONS = {"topics", "sinks", "dead_letters", "worker"}
"""What all processes of one job should agree on."""
OWN_KEYS = {"index", "port", "host"}
"""What each process has of its own."""

disable_created_metrics()  # type: ignore[no-untyped-call] # a second series for each counter that nobody asks for


class ProcessMetrics:
    """What every process has: a registry and its text, and what it is."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        ProcessCollector(namespace="tally", registry=self.registry)
        self.ready = self.gauge("tally_ready", "1 when /ready says 200")
        self.dependency_up = self.gauge("tally_dependency_up", "1 when what the process needs answers", "service")
        self.build = self.gauge("tally_build_info", "1, with what runs here", "version", "python", "faust")
        self.config = self.gauge("tally_config_info", "1, with a digest of the settings that all processes share", "digest")
        self.setting = self.gauge("tally_setting", "settings that alerts compare with, in their own unit", "name")
        self.certificate_expiry = self.gauge(
            "tally_certificate_expiry_timestamp_seconds", "when certificates that this process uses end; 0: unreadable", "file"
        )
        self.build.labels(VERSION, platform.python_version(), version_of("faust-streaming")).set(1)

    def configured(self, settings: Settings) -> None:
        """Show the settings: a digest of what all processes should share, and the few that alerts compare with."""
        self.config.labels(settings_digest(settings)).set(1)
        for name in SHOWN_SETTINGS:
            section, key = name.split(".")
            self.setting.labels(name).set(getattr(getattr(settings, section), key))

    def text(self) -> bytes:
        """Return the Prometheus text of everything registered."""
        return generate_latest(self.registry)

    def counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(name, meaning, labels, registry=self.registry)

    def gauge(self, name: str, meaning: str, *labels: str) -> Gauge:
        return Gauge(name, meaning, labels, registry=self.registry)

    def histogram(self, name: str, meaning: str, *labels: str, edges: tuple[float, ...] = LATENCY_S) -> Histogram:
        return Histogram(name, meaning, labels, buckets=edges, registry=self.registry)


def settings_digest(settings: Settings) -> str:
    """Return 12 hexadecimal digits that are equal where the settings are that all processes of a job should share."""
    shared = settings.model_dump_json(include=COMMON_SECTIONS, exclude=dict.fromkeys(COMMON_SECTIONS, OWN_KEYS))
    return sha256(shared.encode()).hexdigest()[:12]


class WorkerMetrics(ProcessMetrics):
    """The worker: what it counted, what waits, what its tables weigh."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        super().__init__(registry)
        self.events = self.counter(
            "tally_events_total", "source records by result: counted, duplicate, dead_letter", "topic", "result"
        )
        self.batch_records = self.histogram("tally_batch_records", "records of one source batch", edges=RECORDS)
        self.batch_seconds = self.histogram("tally_batch_duration_seconds", "from hand-out to acknowledgment of a batch")
        self.event_age = self.histogram("tally_event_age_seconds", "age of a batch's newest record when folded", edges=AGE_S)
        self.view_latency = self.histogram(
            "tally_e2e_latency_seconds", "from receipt by Kafka to where it shows, by stage", "stage", edges=RARE_S
        )
        self._place_gauges()
        self.commits = self.counter("tally_commit_total", "commits by status: ok, failed", "status")
        self.commit_seconds = self.histogram("tally_commit_duration_seconds", "one commit of offsets")
        self.rebalances = self.counter("tally_rebalances_total", "rebalances of the group that this worker took part in")
        self.rebalance_seconds = self.histogram(
            "tally_rebalance_duration_seconds", "one rebalance, recovery included", edges=RARE_S
        )
        self._recovery_metrics()
        self.dead_letters = self.counter("tally_dead_letters_total", "records that could not be counted", "reason")
        self.dead_letter_share = self.gauge("tally_dead_letters_share", "dead letters among the last records, 0 to 1", "topic")
        self.duplicates = self.counter("tally_duplicates_total", "submissions that came before, each told once", "topic")
        self.changelog_bytes = self.counter("tally_changelog_bytes_total", "bytes sent before compression", "table")
        self.replayed = self.counter("tally_replayed_offsets_total", "source offsets read again after a seek")
        self.rewinds = self.counter("tally_rewinds_total", "returns to the committed offset after a lost batch")
        self.frozen = self.counter("tally_offset_keys_frozen_total", "local offsets stopped by a second writer", "table")
        self.misrouted = self.counter("tally_misrouted_records_total", "sampled records that murmur2 puts elsewhere", "topic")
        self.query_seconds = self.histogram("tally_query_duration_seconds", "answering a query", "query", "scope")
        self.query_errors = self.counter("tally_query_errors_total", "queries not answered", "query", "code")
        self.state_bytes = self.gauge("tally_state_bytes", "size of RocksDB's files", "table", "partition")
        self.memtable_bytes = self.gauge("tally_memtable_bytes", "RocksDB's memtables", "table")
        self.cache_bytes = self.gauge("tally_block_cache_bytes", "RocksDB's block cache in use, all tables")
        self.partitions = self.gauge("tally_partitions_assigned", "partitions that this worker owns, of every source topic")
        self.loop_lag = self.histogram("tally_event_loop_lag_seconds", "how late a timer of the event loop fires")
        self.loop_stuck = self.counter("tally_loop_stuck_total", "times that the event loop did not turn for long")
        self.last_stop = self.gauge(
            "tally_last_stop_timestamp_seconds", "when this worker last stopped itself, by reason; kept over restarts", "reason"
        )
        self.disk_free = self.gauge("tally_disk_free_bytes", "free on the disk that holds the tables")
        self.disk_size = self.gauge("tally_disk_size_bytes", "size of the disk that holds the tables")

    def _place_gauges(self) -> None:
        place = ("topic", "partition")
        self.lag = self.gauge("tally_consumer_lag_records", "records not yet acknowledged", *place)
        self.lag_seconds = self.gauge("tally_consumer_lag_seconds", "age of the oldest record not yet acknowledged", *place)
        self.acknowledged = self.gauge("tally_consumer_acknowledged_offset", "before it everything is counted", *place)
        self.committed = self.gauge("tally_consumer_committed_offset", "last committed; a bucket's start", *place)
        self.commit_age = self.gauge("tally_commit_age_seconds", "since when a commit is due; 0: none is", *place)
        self.watermark = self.gauge(
            "tally_event_time_watermark_timestamp_seconds", "newest event minute of the open bucket", *place
        )

    def _recovery_metrics(self) -> None:
        self.recovery_active = self.gauge("tally_recovery_active", "1 while tables are read back from their changelogs")
        self.recovery_remaining = self.gauge("tally_recovery_remaining_records", "records still to be read back", "table")
        self.recovery_seconds = self.histogram("tally_recovery_duration_seconds", "one recovery", edges=RARE_S)
        self.state_keys = self.gauge("tally_state_keys_estimate", "keys in RocksDB, by its own estimate", "table")
        self.pending_compaction = self.gauge("tally_compaction_pending_bytes", "what RocksDB has still to compact", "table")
        self.write_stalls = self.gauge("tally_write_stalled_partitions", "partitions whose writes RocksDB slows down", "table")
        self.background_errors = self.counter("tally_rocksdb_background_errors_total", "failed flushes, compactions", "table")
        self.oldest_arrival = self.gauge(
            "tally_state_oldest_arrival_timestamp_seconds", "hour in which the oldest block kept arrived", "table"
        )


class GatewayMetrics(ProcessMetrics):
    """The gateway: what it took, what it refused, how long Kafka and the workers took."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        super().__init__(registry)
        self.requests = self.counter("tally_gateway_requests_total", "requests by route and status", "route", "code")
        self.seconds = self.histogram("tally_gateway_request_duration_seconds", "from request to answer", "route")
        self.events = self.counter("tally_gateway_events_total", "events by result: acknowledged, refused, failed", "result")
        self.refused = self.counter("tally_gateway_refused_total", "events refused at the door", "reason")
        self.failures = self.counter("tally_gateway_failures_total", "requests answered 500: a fault of ours", "route")
        self.loop_lag = self.gauge(
            "tally_loop_lag_seconds", "how late the latest timer of the event loop was, of the last 10 s"
        )
        self.requests_refused = self.counter(
            "tally_gateway_requests_refused_total", "requests not let through, by intake and reason", "intake", "reason"
        )
        self.waiting = self.gauge("tally_gateway_events_waiting", "events not yet acknowledged by Kafka")
        self.queries_waiting = self.gauge("tally_gateway_queries_waiting", "queries that wait for a worker to come back")
        self.batch_events = self.histogram("tally_gateway_batch_events", "events of one batch to Kafka", edges=RECORDS)
        self.acknowledge_seconds = self.histogram("tally_gateway_acknowledge_seconds", "Kafka's acknowledgment of a batch")
        self.body_bytes = self.counter("tally_gateway_acknowledged_bytes_total", "keys and values that Kafka acknowledged")
        self.connections = self.gauge("tally_gateway_connections", "open connections of clients")
        self.workers_ready = self.gauge("tally_gateway_workers_ready", "workers that this gateway believes ready")
        self.mismatches = self.counter("tally_gateway_debug_mismatches_total", "answers unlike the body's expected", "query")
        self._events_metrics()
        self._intakes: list[tuple[Callable[[], int], Callable[[], bool]]] = []

    def _events_metrics(self) -> None:
        self.event_results = self.counter(
            "tally_gateway_event_results_total",
            "events of /v1 by route and result: ok, duplicate, warning, drop, retry, queued",
            "route",
            "result",
        )
        self.conflicts = self.counter(
            "tally_gateway_event_conflicts_total", "events that came before with the same id and differ"
        )
        self.letters = self.counter(
            "tally_gateway_dead_letters_total", "dead letters of dropped events by result: acknowledged, failed", "result"
        )
        self.decoded_bytes = self.counter(
            "tally_gateway_decoded_bytes_total", "bytes of bodies after they were expanded", "route"
        )
        self.clock_skew = self.histogram(
            "tally_gateway_clock_skew_seconds", "X-Sent-At against receipt: clocks ahead, or behind", "direction", edges=AGE_S
        )
        self.beacon_refusals = self.counter(
            "tally_gateway_beacon_refusals_total",
            "beacons of which something was not taken, by the status it would have",
            "code",
        )

    def watch_intake(self, *, waiting: Callable[[], int], is_up: Callable[[], bool]) -> None:
        """Show an intake too: how many events wait in all of them, and whether Kafka answers each."""
        self._intakes.append((waiting, is_up))
        self.waiting.set_function(lambda: sum(waiting() for waiting, _ in self._intakes))
        self.dependency_up.labels("kafka").set_function(lambda: all(is_up() for _, is_up in self._intakes))


class SinkMetrics(ProcessMetrics):
    """The sinks process: what it wrote, and how far behind it is."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        super().__init__(registry)
        self.rows = self.counter("tally_sink_rows_total", "rows by table and operation: written, deleted", "table", "operation")
        self.superseded = self.counter(
            "tally_sink_superseded_total", "block versions not written: a newer one was there", "table"
        )
        self.seconds = self.histogram("tally_sink_transaction_duration_seconds", "one transaction, commit included")
        self.records = self.histogram("tally_sink_transaction_records", "records of one transaction", edges=RECORDS)
        self.copy_rows = self.histogram("tally_sink_copy_rows", "rows of one COPY, by table", "table", edges=RECORDS)
        self.forward_queue = self.gauge("tally_forward_queue_rows", "rows of submissions not yet in Postgres, of all sinks")
        self.lag = self.gauge("tally_sink_lag_records", "records not yet in Postgres", "topic", "partition")
        self.lag_seconds = self.gauge(
            "tally_sink_lag_seconds", "age of the oldest record not yet in Postgres", "topic", "partition"
        )
        self.latency = self.histogram(
            "tally_e2e_latency_seconds", "from the changelog to Postgres, of a transaction's oldest", "stage", edges=RARE_S
        )
        self.letter_failures = self.counter("tally_sink_dead_letter_failures_total", "tries to write dead letters that failed")
        self.partitions_ahead = self.gauge("tally_postgres_partitions_ahead", "days from tomorrow on without a gap", "table")
        self.retries = self.counter("tally_sink_retries_total", "transactions tried again, by SQLSTATE class", "sqlstate")
        self.refused = self.counter("tally_sink_refused_total", "rows that Postgres refused", "table")
        self.rollup_seconds = self.histogram("tally_sink_rollup_duration_seconds", "rolling up one hour or day", "unit")
        self.rollup_progress = self.gauge(
            "tally_sink_rollup_progress_timestamp_seconds", "when the roller last rolled something up, or saw that all is"
        )
        self.rollups_waiting = self.gauge("tally_sink_rollups_waiting", "hours that are over and not rolled up yet")
        self.last_success = self.gauge("tally_sink_last_success_timestamp_seconds", "when the last transaction committed")
