"""Run the gateway: take the port, serve, and on SIGTERM answer what is in flight, flush and end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from functools import partial

import uvicorn

from gateway.app import App
from gateway.intake import Intake
from gateway.protocol import Protocol
from gateway.request_log import LoggedRequests
from gateway.workers import Workers
from streams.errors import SettingsError
from streams.metrics import GatewayMetrics
from streams.settings import Settings
from streams.topics import USER_TAGS

log = logging.getLogger(__name__)

BACKLOG_CONNECTIONS = 2_048
CONNECTIONS_MAX = 10_000
KEEP_ALIVE_S = 75
"""Longer than clients and balancers keep idle connections, so that they end them and never meet a closed one."""
ANSWER_GRACE_S = 2.0
"""After SIGTERM, how long events in flight may wait for Kafka before they are answered 503."""
SHUTDOWN_TIMEOUT_S = 5
GC_THRESHOLD = 50_000
"""Requests make no cycles worth the default of 700 objects."""


class Server(uvicorn.Server):
    """A uvicorn server that a signal ends with exit code 0; its own would raise the signal again."""

    def __init__(self, config: uvicorn.Config, intake: Intake) -> None:
        super().__init__(config)
        self._intake = intake
        self._flushing: asyncio.Task[None] | None = None

    def stop(self) -> None:
        """Accept no more, answer what is in flight, end."""
        if self._flushing is None:
            self._flushing = asyncio.get_running_loop().create_task(self._intake.flush(ANSWER_GRACE_S))
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        numbers = (signal.SIGINT, signal.SIGTERM)
        for number in numbers:
            loop.add_signal_handler(number, self.stop)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)


async def serve(settings: Settings) -> None:
    """Serve until a signal.

    Raises:
        SettingsError: the port cannot be taken, or the topic has another number of partitions than the setting.
    """
    listener = listen(settings.gateway.host, settings.gateway.port)
    metrics = GatewayMetrics()
    intake = Intake(USER_TAGS, settings, metrics)
    workers = Workers(settings)
    server = Server(_config(App(intake, workers, metrics, settings), settings), intake)
    async with _running(server, intake, workers):
        log.info("gateway listens", extra={"url": f"http://{settings.gateway.host}:{settings.gateway.port}"})
        gc.collect()
        gc.freeze()
        gc.set_threshold(GC_THRESHOLD)
        await server.serve(sockets=[listener])


def listen(host: str, port: int) -> socket.socket:
    """Return a socket bound to the port, so that a taken one is told in one line before anything else starts.

    Raises:
        SettingsError: the port or address cannot be used.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.setblocking(False)
    except OSError as error:
        raise SettingsError(
            f"gateway.host and gateway.port: cannot listen on {host}:{port}: {error.strerror}; "
            "stop what uses it, or set TALLY_GATEWAY_PORT"
        ) from error
    return listener


@contextlib.asynccontextmanager
async def _running(server: Server, intake: Intake, workers: Workers) -> AsyncIterator[None]:
    """Keep Kafka and the workers connected; what ends one of these tasks ends the server and is raised."""
    tasks = [asyncio.create_task(intake.run()), asyncio.create_task(workers.run())]
    for task in tasks:
        task.add_done_callback(lambda ended: None if ended.cancelled() else server.stop())
    try:
        yield
    finally:
        await intake.flush(ANSWER_GRACE_S)
        failed = [task.exception() for task in tasks if task.done() and not task.cancelled()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await workers.close()
    for error in failed:
        if error is not None:
            raise error


def _config(app: App, settings: Settings) -> uvicorn.Config:
    logged = settings.log.requests
    return uvicorn.Config(
        LoggedRequests(app, settings.log) if logged else app,
        http=partial(Protocol, user_tags=None if logged else app.user_tags),  # type: ignore[arg-type] # any maker will do
        ws="none",
        interface="asgi3",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG_CONNECTIONS,
        limit_concurrency=CONNECTIONS_MAX,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=SHUTDOWN_TIMEOUT_S,
    )
