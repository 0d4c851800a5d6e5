"""What happens by the clock to each stream: partial versions, retention, and offset keys after a recovery."""

from __future__ import annotations

import logging
from typing import Any

from agents.duplicates import DuplicatesKeeper
from agents.guard import guard
from agents.protocol import CountingProtocol
from streams.partitioner import check_partitions
from tables.store import expire

log = logging.getLogger(__name__)

KEEP_ALIVE_PARTS = 24
"""The open bucket is sent again this many times a horizon: no retention may take it while events can still join it."""
SWEEP_INTERVAL_S = 600.0


def create_timers(app: Any, protocol: CountingProtocol) -> None:
    """Declare the timers and the recovery hook of a stream."""
    worker, topic, keeper = protocol.settings.worker, protocol.tables.stream.topic, DuplicatesKeeper(protocol)
    keep_alive_s = worker.horizon_s / KEEP_ALIVE_PARTS

    @app.timer(worker.partial_interval_s, name=f"send-partials-{topic}")
    async def send_partials() -> None:
        """Send the open buckets' versions, so that queries and Postgres are fresh."""
        async with guard():
            if not app.rebalancing and app.tables.actives_ready:
                check_topics(app, protocol)
                await protocol.check_beginnings()
                await protocol.send_partials(keep_alive_s=keep_alive_s)
                await keeper.keep_alive(after_s=keep_alive_s)

    @app.timer(SWEEP_INTERVAL_S, name=f"expire-blocks-{topic}")
    async def expire_blocks() -> None:
        """Remove what arrived before the horizon from the local store."""
        before_ms = protocol.clock.now_ms() - worker.horizon_s * 1000
        for partition in protocol.tables.block_store.owned():
            removed = expire(protocol.tables.block_store, partition, before_ms=before_ms)
            if removed:
                log.info("expired %d blocks of partition %d of %s", removed, partition, topic)

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
        if found:  # None while the metadata are fetched anew, 0 while nobody leads a partition
            check_partitions(topic, found, protocol.settings.topics.partitions)


def make_reset(protocol: CountingProtocol) -> Any:
    """Return a callback of its own for a table: Faust keeps one by identity."""

    async def recovered() -> None:
        protocol.offset_keys.reset()

    return recovered
