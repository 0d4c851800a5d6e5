"""Name every metric once, by process: base units, closed label values, never a user.

Each process makes its own class on a registry of its own, so that `/metrics` shows what the process really measures. They
are updated by batch or by request, never by event.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
LATENCY_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
AGE_S = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600, 86400)
RECORDS = (1, 10, 100, 500, 1000, 2500, 5000, 10000, 25000, 50000, 100000)

disable_created_metrics()  # type: ignore[no-untyped-call] # a second series for each counter that nobody asks for


class ProcessMetrics:
    """What every process has: a registry and its text."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()

    def text(self) -> bytes:
        """Return the Prometheus text of everything registered."""
        return generate_latest(self.registry)

    def counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(name, meaning, labels, registry=self.registry)

    def gauge(self, name: str, meaning: str, *labels: str) -> Gauge:
        return Gauge(name, meaning, labels, registry=self.registry)

    def histogram(self, name: str, meaning: str, *labels: str, edges: tuple[float, ...] = LATENCY_S) -> Histogram:
        return Histogram(name, meaning, labels, buckets=edges, registry=self.registry)


class WorkerMetrics(ProcessMetrics):
    """The worker: what it counted, what waits, what its tables weigh."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        super().__init__(registry)
        self.events = self.counter("tally_events_total", "source records by result: counted, dead_letter", "result")
        self.batch_records = self.histogram("tally_batch_records", "records of one source batch", edges=RECORDS)
        self.batch_seconds = self.histogram("tally_batch_duration_seconds", "from hand-out to acknowledgment of a batch")
        self.event_age = self.histogram("tally_event_age_seconds", "age of a batch's newest record when folded", edges=AGE_S)
        self.lag = self.gauge("tally_consumer_lag_records", "records not yet acknowledged", "topic", "partition")
        self.dead_letters = self.counter("tally_dead_letters_total", "records that could not be counted", "reason")
        self.dead_letter_share = self.gauge("tally_dead_letters_share", "dead letters among the last records, 0 to 1")
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
        self.partitions = self.gauge("tally_partitions_assigned", "source partitions that this worker owns")
        self.ready = self.gauge("tally_ready", "1 when recovered and not rebalancing")
        self.loop_lag = self.histogram("tally_event_loop_lag_seconds", "how late a timer of the event loop fires")


class GatewayMetrics(ProcessMetrics):
    """The gateway: what it took, what it refused, how long Kafka and the workers took."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        super().__init__(registry)
        self.requests = self.counter("tally_gateway_requests_total", "requests by route and status", "route", "code")
        self.seconds = self.histogram("tally_gateway_request_duration_seconds", "from request to answer", "route")
        self.events = self.counter("tally_gateway_events_total", "events by result: acknowledged, refused, failed", "result")
        self.refused = self.counter("tally_gateway_refused_total", "events refused at the door", "reason")
        self.waiting = self.gauge("tally_gateway_events_waiting", "events not yet acknowledged by Kafka")
        self.batch_events = self.histogram("tally_gateway_batch_events", "events of one batch to Kafka", edges=RECORDS)
        self.acknowledge_seconds = self.histogram("tally_gateway_acknowledge_seconds", "Kafka's acknowledgment of a batch")
        self.mismatches = self.counter("tally_gateway_debug_mismatches_total", "answers unlike the body's expected", "query")


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
        self.lag = self.gauge("tally_sink_lag_records", "records not yet in Postgres", "topic", "partition")
        self.retries = self.counter("tally_sink_retries_total", "transactions tried again, by SQLSTATE class", "sqlstate")
        self.refused = self.counter("tally_sink_refused_total", "rows that Postgres refused", "table")
        self.last_success = self.gauge("tally_sink_last_success_timestamp_seconds", "when the last transaction committed")
