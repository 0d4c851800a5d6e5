"""What happens by the clock: partial versions, retention, offset keys after a recovery, figures for `/metrics`."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from agents.guard import guard
from agents.protocol import CountingProtocol
from streams.partitioner import check_partitions
from tables.store import SharedCache, expire

log = logging.getLogger(__name__)

KEEP_ALIVE_PARTS = 24
"""The open bucket is sent again this many times a horizon: no retention may take it while events can still join it."""
SWEEP_INTERVAL_S = 600.0
FIGURES_INTERVAL_S = 2.0
PROBE_S = 0.05


def create_timers(app: Any, protocol: CountingProtocol) -> None:
    """Declare the timers and the recovery hook of a stream."""
    worker = protocol.settings.worker

    @app.timer(worker.partial_interval_s, name="send-partials")
    async def send_partials() -> None:
        """Send the open buckets' versions, so that queries and Postgres are fresh."""
        async with guard():
            if not app.rebalancing and app.tables.actives_ready:
                check_topics(app, protocol)
                await protocol.check_beginnings()
                await protocol.send_partials(keep_alive_s=worker.horizon_s / KEEP_ALIVE_PARTS)

    @app.timer(SWEEP_INTERVAL_S, name="expire-blocks")
    async def expire_blocks() -> None:
        """Remove what arrived before the horizon from the local store."""
        before_ms = protocol.clock.now_ms() - worker.horizon_s * 1000
        for partition in protocol.tables.block_store.owned():
            removed = expire(protocol.tables.block_store, partition, before_ms=before_ms)
            if removed:
                log.info("expired %d blocks of partition %d", removed, partition)

    @app.timer(FIGURES_INTERVAL_S, name="update-figures")
    async def update_figures() -> None:
        """Bring the gauges up to date."""
        show_lag(protocol)
        show_stores(protocol)
        protocol.metrics.loop_lag.observe(await loop_lag_s())
        ready = app.tables.actives_ready and not app.rebalancing
        protocol.metrics.ready.set(int(ready))

    for table in protocol.tables.all:
        table.on_recover(make_reset(protocol))


def check_topics(app: Any, protocol: CountingProtocol) -> None:
    """Refuse topics that somebody made with other partitions than the settings: answers would look in the wrong ones.

    Raises:
        SettingsError: one line that says what to set.
    """
    tables = protocol.tables
    for topic in (tables.stream.topic, *(table.changelog_topic.get_topic_name() for table in tables.all)):
        found = app.consumer.topic_partitions(topic)
        if found is not None:  # None while the metadata are fetched anew
            check_partitions(topic, found, protocol.settings.topics.partitions)


async def loop_lag_s() -> float:
    """Return how late the event loop wakes a sleeper, seconds: what a query waits before it is looked at."""
    loop = asyncio.get_running_loop()
    due_s = loop.time() + PROBE_S
    await asyncio.sleep(PROBE_S)
    return max(0.0, loop.time() - due_s)


def make_reset(protocol: CountingProtocol) -> Any:
    """Return a callback of its own for a table: Faust keeps one by identity."""

    async def recovered() -> None:
        protocol.offset_keys.reset()

    return recovered


def show_lag(protocol: CountingProtocol) -> None:
    """Set the lag of every owned partition, from the acknowledged position: commits are rounded down."""
    consumer, metrics = protocol.consumer, protocol.metrics
    partitions = consumer.owned()
    metrics.partitions.set(len(partitions))
    metrics.lag.clear()
    for tp in partitions:
        highwater, acknowledged = consumer.highwater(tp), consumer.acknowledged(tp)
        if highwater is not None:
            known = acknowledged if acknowledged is not None else protocol.counted(tp.partition) or 0
            metrics.lag.labels(tp.topic, tp.partition).set(max(0, highwater - known))


def show_stores(protocol: CountingProtocol) -> None:
    """Set the sizes of RocksDB."""
    metrics = protocol.metrics
    metrics.state_bytes.clear()
    for table in protocol.tables.all:
        memtables = 0
        for partition in table.data.owned():
            database = table.data.database(partition)
            size = database.property_int_value("rocksdb.total-sst-files-size") or 0
            memtables += database.property_int_value("rocksdb.cur-size-all-mem-tables") or 0
            metrics.state_bytes.labels(table.name, partition).set(size)
        metrics.memtable_bytes.labels(table.name).set(memtables)
    if SharedCache.cache is not None:
        metrics.cache_bytes.set(SharedCache.cache.get_usage())
