"""Make the Faust app of a worker from the settings; every choice that is not Faust's default says why."""

from __future__ import annotations

import asyncio
import re
import socket
from asyncio import AbstractEventLoop
from collections.abc import Callable
from typing import Any

import faust

from streams import transport
from streams.errors import SettingsError
from streams.settings import Settings, Worker
from streams.topics import APP_ID, Stream

POLL_RUNS_MAX = 4
"""Runs of one poll over all partitions, and records of a changelog when recovering. What is in flight stays in the processor's
caches: with 16, counting costs a tenth more and a worker takes 100 MiB more."""
FETCH_BYTES_MAX = 1 << 20
QUEUE_BATCHES_MAX = 4
REQUEST_BYTES_MAX = 32 << 20
"""One bucket's blocks go in one batch, and their texts may be long: 4,096 cells x 3 x 512 characters of 4 bytes."""


class App(faust.App):
    """Faust's app, which says when its loop runs: its own hooks wait for the recovery, and that may hang.

    Attributes:
        on_loop: called with the loop, on it, once a process.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.on_loop: list[Callable[[AbstractEventLoop], None]] = []
        super().__init__(*args, **kwargs)

    async def on_first_start(self) -> None:
        await super().on_first_start()
        for call in self.on_loop:
            call(asyncio.get_running_loop())


def create_app(settings: Settings, *, store: str) -> App:
    """Return the app; nothing is connected yet.

    Raises:
        SettingsError: no Kafka is named.
    """
    if not settings.kafka.servers:
        raise SettingsError("kafka.servers is empty: start everything with `make run`, or set TALLY_KAFKA_SERVERS")
    worker = settings.worker
    folder = settings.stack.home.absolute() / f"worker-{worker.index}"
    folder.parent.mkdir(parents=True, exist_ok=True)  # Faust makes the folder, not its parents
    return App(
        APP_ID,
        broker=f"{transport.SCHEME}://" + settings.kafka.servers.replace(",", ";"),
        store=f"{store}://",
        datadir=folder,
        topic_partitions=settings.topics.partitions,
        topic_replication_factor=settings.topics.replication_factor,
        topic_disable_leader=True,
        topic_allow_declare=False,  # created, with their settings, before a worker starts
        table_standby_replicas=0,  # recovery from the changelog is fast; a standby doubles the work
        **_consumer_settings(worker),
        consumer_group_instance_id=member_name(settings),
        **_producer_settings(worker),
        stream_wait_empty=False,  # a batch in flight is acknowledged too late and read again: nothing counts twice
        web_host=settings.web.host,
        web_bind=settings.web.host,
        web_port=settings.web.port + worker.index,
        worker_redirect_stdouts=False,
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
