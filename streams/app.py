"""Make the Faust app of a worker from the settings; every choice that is not Faust's default says why."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
from asyncio import AbstractEventLoop
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import faust
from faust.tables.manager import TableManager
from faust.types import TP

from streams import transport
from streams.clock import SYSTEM_CLOCK
from streams.errors import SettingsError
from streams.kafka_access import access, uses_sasl
from streams.logs import faust_logging
from streams.settings import Kafka, Settings, Worker
from streams.state_format import mark_folder
from streams.topics import APP_ID, Stream

log = logging.getLogger(__name__)

POLL_RUNS_MAX = 4
"""Runs of one poll over all partitions, and records of a changelog when recovering. What is in flight stays in the processor's
caches: with 16, counting costs a tenth more and a worker takes 100 MiB more."""
FETCH_BYTES_MAX = 1 << 20
QUEUE_BATCHES_MAX = 4
LAST_TURNS_S = 0.05
"""For tasks that were cancelled to end, before the loop is closed."""
REQUEST_BYTES_MAX = 32 << 20
"""One bucket's blocks go in one batch, and their texts may be long: 4,096 cells x 3 x 512 characters of 4 bytes."""


LISTENING_WITHIN_S = 1.0
LISTENING_POLL_S = 0.005


NEVER = -1
"""No rebalance has this number."""


class Tables(TableManager):
    """Faust's tables, which are ready for the last rebalance or not at all, and start as soon as the agents listen.

    Faust waits a second for these. Topics are subscribed to right after it, and what an agent names later 45 s later.

    Faust says once, as a rebalance begins, that nothing is ready and nothing is fetched. A recovery that ends after that,
    because it was in its last steps, takes both back, and what the rebalance then brings is answered for while it is empty.
    """

    _assigned_in = 0
    _recovered_in = NEVER

    @property
    def is_last(self) -> bool:
        """Say whether what is recovered now, or was, is what the last rebalance to have begun has assigned."""
        return self._assigned_in == self.app.rebalancing_count and not self.recovery.signal_recovery_start.is_set()

    @property
    def actives_ready(self) -> bool:
        """Say whether everything is recovered that the last rebalance to have begun has assigned."""
        return bool(self._recovered_in == self.app.rebalancing_count)

    @actives_ready.setter
    def actives_ready(self, ready: bool) -> None:
        self._recovered_in = self.app.rebalancing_count if ready else NEVER

    async def on_rebalance(self, assigned: set[TP], revoked: set[TP], newly_assigned: set[TP], generation_id: int = 0) -> None:
        await super().on_rebalance(assigned, revoked, newly_assigned, generation_id)
        self._assigned_in = self.app.rebalancing_count  # the next one begins, on another thread, when this has returned

    def on_actives_ready(self) -> None:
        if self.is_last:
            self._recovered_in = self._assigned_in  # not the count of now: that thread does not wait for this line

    async def on_start(self) -> None:
        deadline_s = SYSTEM_CLOCK.monotonic_s() + LISTENING_WITHIN_S
        while not (self._agents_listen() or self.should_stop) and SYSTEM_CLOCK.monotonic_s() < deadline_s:
            await asyncio.sleep(LISTENING_POLL_S)
        if not self.should_stop:
            await self._update_channels()
            await self.recovery.start()

    def _agents_listen(self) -> bool:
        wanted = {topic for agent in self.app.agents.values() for topic in agent.get_topic_names()}
        return wanted <= {name for topic in self.app.topics for name in topic.topics}


class App(faust.App):
    """Faust's app, which says when its loop runs: its own hooks wait for the recovery, and that may hang.

    Attributes:
        on_loop: called with the loop, on it, once a process.
        stops: set by the signal that asks the process to stop: it serves on for the drain time, but is not ready any more.
    """

    def __init__(self, *args: Any, drain_s: float = 0.0, **kwargs: Any) -> None:
        self.on_loop: list[Callable[[AbstractEventLoop], None]] = []
        self.stops = False
        self._drain_s = drain_s
        self._drained = asyncio.Event()
        super().__init__(*args, **kwargs)

    async def on_first_start(self) -> None:
        await super().on_first_start()
        for call in self.on_loop:
            call(asyncio.get_running_loop())

    def on_rebalance_end(self) -> None:
        if self.tables.is_last:
            super().on_rebalance_end()

    async def drain(self) -> None:
        """Return after the drain time, or when `end_drain` is called; at once where this worker is not ready anyhow."""
        self.stops = True
        if self.tables.actives_ready and not self.rebalancing:
            log.info("the worker stops in %.1f s", self._drain_s)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._drained.wait(), self._drain_s)

    def end_drain(self) -> None:
        """Stop now."""
        self._drained.set()


class DrainingWorker(faust.Worker):
    """Faust's process of an app, which says that it stops before it does, and takes no longer for it than it must."""

    app: App

    def _schedule_shutdown(self, number: Any) -> None:
        if self._signal_stop_time:  # a second signal
            self.app.end_drain()
        super()._schedule_shutdown(number)

    async def _stop_on_signal(self, number: Any) -> None:
        await self.app.drain()
        await super()._stop_on_signal(number)

    async def _sentinel_task(self) -> None:
        await asyncio.sleep(LAST_TURNS_S)  # Faust's own takes a second, and the worker is missed meanwhile


def create_app(settings: Settings, *, store: str) -> App:
    """Return the app; nothing is connected yet.

    Raises:
        SettingsError: no Kafka is named, or the settings let nobody in.
        NewerStateError: a later version has used this worker's folder.
    """
    if not settings.kafka.servers:
        raise SettingsError("kafka.servers is empty: start everything with `make run`, or set TALLY_KAFKA_SERVERS")
    worker = settings.worker
    folder = settings.stack.home.absolute() / f"worker-{worker.index}"
    mark_folder(folder)
    return App(
        APP_ID,
        Worker=DrainingWorker,
        drain_s=worker.drain_s,
        broker=f"{transport.SCHEME}://" + settings.kafka.servers.replace(",", ";"),
        store=f"{store}://",
        TableManager=Tables,
        datadir=folder,
        topic_partitions=settings.topics.partitions,
        topic_replication_factor=settings.topics.replication_factor,
        topic_disable_leader=True,
        topic_allow_declare=False,  # created, with their settings, before a worker starts
        table_standby_replicas=0,  # recovery from the changelog is fast; a standby doubles the work
        broker_credentials=_credentials(settings.kafka),
        **_consumer_settings(worker),
        consumer_group_instance_id=member_name(settings),
        **_producer_settings(worker),
        stream_wait_empty=False,  # a batch in flight is acknowledged too late and read again: nothing counts twice
        web_host=settings.web.host,
        web_bind=settings.web.host,
        web_port=settings.web.port + worker.index,
        worker_redirect_stdouts=False,
        logging_config=faust_logging(settings),
        # Faust's own views show keys and topology to anybody
        web_router_enabled=False,
        web_tables_enabled=False,
    )


def member_name(settings: Settings) -> str:
    """Return the worker's name in its group: after a kill it needs not wait for its old session to end.

    It names the address, because the group gives a known name its old assignment back, and Faust refuses one that names
    another address than its own.
    """
    address = re.sub(r"[^\w.-]", "_", settings.web.host)
    return f"{APP_ID}-{socket.gethostname()}-{address}-{settings.web.port + settings.worker.index}"


def _consumer_settings(worker: Worker) -> dict[str, Any]:
    return {
        "broker_commit_interval": worker.commit_interval_s,
        "broker_commit_every": 1_000_000,  # counts batches: the interval alone decides
        "broker_max_poll_records": POLL_RUNS_MAX,
        "broker_session_timeout": worker.session_timeout_s,
        "broker_heartbeat_interval": worker.session_timeout_s / 5,
        "broker_rebalance_timeout": 60.0,
        "broker_request_timeout": 90.0,
        "broker_check_crcs": True,
        "consumer_max_fetch_size": FETCH_BYTES_MAX,
        "consumer_auto_offset_reset": "earliest",
    }


def _credentials(kafka: Kafka) -> Any:
    """Return Faust's own form of `access`, None for a plaintext listener."""
    given = access(kafka)
    context = given.get("ssl_context")
    if uses_sasl(kafka):
        name, password = given["sasl_plain_username"], given["sasl_plain_password"]
        return faust.SASLCredentials(username=name, password=password, mechanism=kafka.sasl_mechanism, ssl_context=context)
    return faust.SSLCredentials(context=context) if context else None


def _producer_settings(worker: Worker) -> dict[str, Any]:
    return {
        "producer_linger": 0.0,
        "producer_max_batch_size": REQUEST_BYTES_MAX,
        "producer_max_request_size": REQUEST_BYTES_MAX,
        "producer_compression_type": "zstd",  # aiokafka's lz4 is its slowest level: 3 µs an event
        "producer_request_timeout": worker.acknowledge_timeout_s,
    }


def source_topic(app: faust.App, stream: Stream, *, partitions: int) -> faust.TopicT:
    """Return the topic of a stream, delivered in batches."""
    return app.topic(stream.topic, schema=transport.BatchSchema(), partitions=partitions, maxsize=QUEUE_BATCHES_MAX)
