"""Bring the gauges of a worker up to date every two seconds, from the first turn of its loop on, so in a recovery too."""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from faust.types import TP

from agents.guard import BEFORE_END, guard
from agents.last_stop import LastStops
from agents.protocol import CountingProtocol
from agents.watchdog import Watchdog
from streams import kafka_access, postgres_access
from streams.certificates import show_certificates
from streams.lag import DueClock, LagClock
from streams.topics import BUCKET_OFFSETS
from tables.store import ARRIVAL_PREFIX, HOUR_MS, SharedCache

INTERVAL_S = 2.0
PROBE_S = 0.05
MINUTE_S = 60
STOPS_FILE = "stops.json"
KEYS, PENDING, STOPPED, DELAYED_RATE = (
    "rocksdb.estimate-num-keys",
    "rocksdb.estimate-pending-compaction-bytes",
    "rocksdb.is-write-stopped",
    "rocksdb.actual-delayed-write-rate",
)
FILES, MEMTABLES, ERRORS = "rocksdb.total-sst-files-size", "rocksdb.cur-size-all-mem-tables", "rocksdb.background-errors"


class Figures:
    """The gauges of one worker; everything runs on its loop, and nothing is asked over the network."""

    def __init__(self, app: Any, protocols: Sequence[CountingProtocol], watchdog: Watchdog) -> None:
        self._app = app
        self._by_topic = {protocol.tables.stream.topic: protocol for protocol in protocols}
        self._protocol = protocols[0]  # what is asked of it is one for all: consumer, settings, metrics, clock
        self._watchdog = watchdog
        self._metrics = self._protocol.metrics
        self._clock = self._protocol.clock
        self._folder = Path(str(app.conf.datadir))
        self._lags: defaultdict[TP, LagClock] = defaultdict(LagClock)
        self._dues: defaultdict[TP, DueClock] = defaultdict(DueClock)
        self._errors: dict[tuple[str, int], int] = {}
        self._recovering_since_s: float | None = None
        self._rebalances = 0
        self._stops = LastStops(self._folder.with_name(f"{self._folder.name}.{STOPS_FILE}"), self._clock)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Show what is known now, and go on doing so until the app stops."""
        BEFORE_END.append(self._stops.note)
        settings = self._protocol.settings
        self._metrics.configured(settings)
        files = kafka_access.certificate_files(settings.kafka) | postgres_access.certificate_files(settings.postgres.dsn)
        show_certificates(self._metrics, files, self._clock)
        for reason, at_s in self._stops.read().items():
            self._metrics.last_stop.labels(reason).set(at_s)
        self._app.add_future(self._run())

    async def _run(self) -> None:
        async with guard():
            while True:
                self._protocol.consumer.on_commit = self._note_commit
                self.update()
                self._metrics.loop_lag.observe(await loop_lag_s())
                await asyncio.sleep(INTERVAL_S)

    def update(self) -> None:
        """Set every gauge."""
        ready = self._app.tables.actives_ready and not self._app.rebalancing and not self._app.stops
        self._metrics.ready.set(int(ready))
        self._show_partitions()
        self._show_group()
        self._show_recovery()
        for protocol in self._by_topic.values():
            for table in protocol.tables.all:
                self._show_store(table)
            self._show_oldest_arrival(protocol)
        if SharedCache.cache is not None:
            self._metrics.cache_bytes.set(SharedCache.cache.get_usage())
        if self._folder.exists():
            usage = shutil.disk_usage(self._folder)
            self._metrics.disk_free.set(usage.free)
            self._metrics.disk_size.set(usage.total)

    # -- where each partition is

    def _show_partitions(self) -> None:
        metrics, owned = self._metrics, self._protocol.consumer.owned()
        topics_of = Counter(tp.partition for tp in owned)
        metrics.partitions.set(sum(topics == len(self._by_topic) for topics in topics_of.values()))
        by_place = (
            metrics.lag, metrics.lag_seconds, metrics.acknowledged, metrics.committed, metrics.commit_age, metrics.watermark,
        )  # fmt: skip
        for tp in {*self._lags} - owned:
            del self._lags[tp]
            self._dues.pop(tp, None)
            for gauge in by_place:
                gauge.remove(tp.topic, str(tp.partition))
        for tp in owned:
            self._show_partition(tp)

    def _show_partition(self, tp: TP) -> None:
        """Set lag, from the acknowledged position: commits are rounded down; and since when a commit is due."""
        metrics, protocol, place = self._metrics, self._by_topic[tp.topic], (tp.topic, str(tp.partition))
        consumer = protocol.consumer
        acknowledged = consumer.acknowledged(tp)
        position = acknowledged if acknowledged is not None else protocol.counted(tp.partition) or 0
        end = max(consumer.highwater(tp) or 0, self._watchdog.ends.get((tp.topic, tp.partition), 0))
        arrived_ms, now_ms = consumer.arrived_ms(tp), self._clock.now_ms()
        arrived_s = None if arrived_ms is None else arrived_ms / 1000
        metrics.lag.labels(*place).set(max(0, end - position))
        lag_s = self._lags[tp].seconds(position, end, now_s=now_ms / 1000, arrived_at_s=arrived_s)
        metrics.lag_seconds.labels(*place).set(lag_s)
        metrics.acknowledged.labels(*place).set(position)
        committed = consumer.committed(tp) or 0
        metrics.committed.labels(*place).set(committed)
        possible = (acknowledged or 0) // BUCKET_OFFSETS * BUCKET_OFFSETS
        due_s = self._dues[tp].seconds(committed, possible, now_s=self._clock.monotonic_s())
        metrics.commit_age.labels(*place).set(due_s)
        minute = max(protocol.state(tp.partition).open.minutes, default=None)
        if minute is not None:  # a bucket that has just begun says nothing: the last one's stays
            metrics.watermark.labels(*place).set(minute * MINUTE_S)

    # -- the group, and recovery

    def _note_commit(self, taken: bool, seconds: float) -> None:
        self._metrics.commits.labels("ok" if taken else "failed").inc()
        self._metrics.commit_seconds.observe(seconds)

    def _show_group(self) -> None:
        monitor = self._app.monitor
        self._metrics.rebalances.inc(monitor.rebalances - self._rebalances)
        self._rebalances = monitor.rebalances
        while monitor.rebalance_end_latency:
            self._metrics.rebalance_seconds.observe(monitor.rebalance_end_latency.popleft())

    def _show_recovery(self) -> None:
        recovery, now_s = self._app.tables.recovery, self._clock.monotonic_s()
        active = bool(recovery.in_recovery)
        self._metrics.recovery_active.set(int(active))
        remaining = recovery.active_remaining() if active else {}
        for table in (table for protocol in self._by_topic.values() for table in protocol.tables.all):
            topic = table.changelog_topic.get_topic_name()
            records = sum(max(0, count) for tp, count in remaining.items() if tp.topic == topic)
            self._metrics.recovery_remaining.labels(table.name).set(records)
        if active and self._recovering_since_s is None:
            self._recovering_since_s = now_s
        elif not active and self._recovering_since_s is not None:
            self._metrics.recovery_seconds.observe(now_s - self._recovering_since_s)
            self._recovering_since_s = None

    # -- what the stores weigh

    def _show_store(self, table: Any) -> None:
        metrics, store, name = self._metrics, table.data, table.name
        databases = {partition: store.database(partition) for partition in store.owned()}
        asked = {
            partition: {
                what: database.property_int_value(what) or 0
                for what in (FILES, MEMTABLES, KEYS, PENDING, STOPPED, DELAYED_RATE, ERRORS)
            }
            for partition, database in databases.items()
        }
        for partition in range(self._protocol.settings.topics.partitions):
            if partition in asked:
                metrics.state_bytes.labels(name, str(partition)).set(asked[partition][FILES])
            else:
                metrics.state_bytes.remove(name, str(partition))
        metrics.memtable_bytes.labels(name).set(sum(found[MEMTABLES] for found in asked.values()))
        metrics.state_keys.labels(name).set(sum(found[KEYS] for found in asked.values()))
        metrics.pending_compaction.labels(name).set(sum(found[PENDING] for found in asked.values()))
        metrics.write_stalls.labels(name).set(sum(bool(found[STOPPED] or found[DELAYED_RATE]) for found in asked.values()))
        for partition, found in asked.items():
            before = self._errors.get((name, partition), 0)
            metrics.background_errors.labels(name).inc(max(0, found[ERRORS] - before))
            self._errors[name, partition] = found[ERRORS]

    def _show_oldest_arrival(self, protocol: CountingProtocol) -> None:
        store, table = protocol.tables.block_store, protocol.tables.blocks.name
        firsts = (next(store.scan(partition, ARRIVAL_PREFIX, ARRIVAL_PREFIX + b"\xff"), None) for partition in store.owned())
        hours = [int.from_bytes(first[0][len(ARRIVAL_PREFIX) :], "big") for first in firsts if first]
        if hours:
            self._metrics.oldest_arrival.labels(table).set(min(hours) * HOUR_MS / 1000)
        else:
            self._metrics.oldest_arrival.remove(table)


async def loop_lag_s() -> float:
    """Return how late the event loop wakes a sleeper, seconds: what a query waits before it is looked at."""
    loop = asyncio.get_running_loop()
    due_s = loop.time() + PROBE_S
    await asyncio.sleep(PROBE_S)
    return max(0.0, loop.time() - due_s)


def create_figures(app: Any, protocols: Sequence[CountingProtocol], watchdog: Watchdog) -> None:
    """Show the figures of this worker from the moment its loop runs."""
    app.on_loop.append(Figures(app, protocols, watchdog).start)
