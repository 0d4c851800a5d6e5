"""Run the gateway: take the port and serve; on SIGTERM say so in `/ready`, serve on until balancers know, then flush and end.

From the signal to the end it takes the drain time (`gateway.drain_s`) and at most `SHUTDOWN_TIMEOUT_S` more.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from functools import partial
from typing import Any

import uvicorn

from gateway.app import App
from gateway.https_only import HSTS, HttpsOnly, HttpsOnlyProtocol
from gateway.intake import Intake
from gateway.limited import IDLE_TIMEOUT_S, watch
from gateway.loop_lag import LoopLag
from gateway.products import Products
from gateway.protocol import Protocol
from gateway.rates import Rates
from gateway.request_log import AsgiApp, LoggedRequests
from gateway.workers import Workers
from streams.certificates import show_certificates
from streams.clock import SYSTEM_CLOCK
from streams.errors import SettingsError
from streams.kafka_access import certificate_files
from streams.metrics import GatewayMetrics
from streams.settings import Settings
from streams.topics import USER_TAGS

log = logging.getLogger(__name__)

BACKLOG_CONNECTIONS = 2_048
CONNECTIONS_MAX = 10_000
ANSWER_GRACE_S = 2.0
"""After SIGTERM, how long events in flight may wait for Kafka before they are answered 503."""
SHUTDOWN_TIMEOUT_S = 5
GC_THRESHOLD = 50_000
"""Requests make no cycles worth the default of 700 objects."""


class Server(uvicorn.Server):
    """A uvicorn server that a signal ends with exit code 0, and not before balancers can know of it."""

    def __init__(self, config: uvicorn.Config, app: App, *, workers: Workers, drain_s: float) -> None:
        super().__init__(config)
        self._health = app.health
        self._live_streams = app.live_streams
        self._flush_intakes = app.flush
        self._workers = workers
        self._drain_s = drain_s
        self._drains = False
        self._flushing: asyncio.Task[None] | None = None

    def drain(self) -> None:
        """Say that it stops, and do so after the drain time; a second signal ends that at once."""
        if self._drains or self._drain_s == 0:
            self.stop()
            return
        self._drains = True
        self._health.say_stops()
        self._live_streams.end_all()
        log.info("gateway stops", extra={"drain_s": self._drain_s})
        asyncio.get_running_loop().call_later(self._drain_s, self.stop)

    def stop(self) -> None:
        """Accept no more, answer what is in flight, end."""
        self._health.say_stops()
        self._live_streams.end_all()
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close what listens and idles first, so that nothing new comes while what is in flight is answered."""
        self._flushing = asyncio.get_running_loop().create_task(self._flush())
        await super().shutdown(sockets)

    async def _flush(self) -> None:
        self._workers.end_waiting()
        await self._flush_intakes(ANSWER_GRACE_S)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        numbers = (signal.SIGINT, signal.SIGTERM)
        for number in numbers:
            loop.add_signal_handler(number, self.drain)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)


async def serve(settings: Settings) -> None:
    """Serve until a signal.

    Raises:
        SettingsError: the port cannot be taken, the topic has another number of partitions than the setting, or authentication
            misses something.
    """
    listener = listen(settings.gateway.host, settings.gateway.port)
    metrics = GatewayMetrics()
    metrics.configured(settings)
    show_certificates(metrics, certificate_files(settings.kafka), SYSTEM_CLOCK)
    intake = Intake(USER_TAGS, settings, metrics)
    workers = Workers(settings)
    metrics.queries_waiting.set_function(lambda: workers.waiting)
    products = Products(settings, metrics)
    lag = LoopLag()
    metrics.loop_lag.set_function(lag.seconds)
    app = App(intake, products, workers, metrics, settings)
    server = Server(_config(app, settings), app, workers=workers, drain_s=settings.gateway.drain_s)
    metrics.connections.set_function(lambda: len(server.server_state.connections))
    async with contextlib.aclosing(app), _running(server, app, [intake.run(), *products.works(), workers.run(), lag.run()]):
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
async def _running(server: Server, app: App, works: Sequence[Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """Keep Kafka and the workers connected; what ends one of these tasks ends the server and is raised."""
    tasks = [asyncio.create_task(work) for work in (*works, watch(server.server_state.connections))]
    for task in tasks:
        task.add_done_callback(lambda ended: None if ended.cancelled() else server.stop())
    try:
        yield
    finally:
        await app.flush(ANSWER_GRACE_S)
        failed = [task.exception() for task in tasks if task.done() and not task.cancelled()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for error in failed:
        if error is not None:
            raise error


def _rates(settings: Settings) -> Rates | None:
    per_second = settings.gateway.requests_per_client_s
    return Rates(per_second, clock=SYSTEM_CLOCK.monotonic_s) if per_second else None


def _config(app: App, settings: Settings) -> uvicorn.Config:
    logged, https_only = settings.log.requests, settings.gateway.https_only
    served: AsgiApp = HttpsOnly(app) if https_only else app
    protocol = HttpsOnlyProtocol if https_only else Protocol
    return uvicorn.Config(
        LoggedRequests(served, settings.log) if logged else served,
        http=partial(protocol, user_tags=None if logged else app.user_tags, rates=_rates(settings)),  # type: ignore[arg-type]
        ws="none",
        interface="asgi3",
        headers=[HSTS] if https_only else [],
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG_CONNECTIONS,
        limit_concurrency=CONNECTIONS_MAX,
        timeout_keep_alive=IDLE_TIMEOUT_S,
        timeout_graceful_shutdown=SHUTDOWN_TIMEOUT_S,
    )
