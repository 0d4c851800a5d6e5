"""All that producers send to, and what is left of it: Kafka, a worker, sinks, a key server, a gateway that dies on demand."""

from __future__ import annotations

import signal
import threading
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec
import psycopg
from aiohttp import web
from tally_client import AnalyticsClient, Options

from gateway.auth.api_keys import new_key
from gateway.auth.key_file import changing
from sinks.migrate import migrate
from stack.kafka import LocalKafka
from stack.key_server import KeyServer
from stack.ports import free_port
from stack.postgres import LocalPostgres
from stack.topics import create_topics
from streams.partitioner import partition_of
from streams.settings import load_settings
from tests.support.eventually import eventually
from tests.support.gateway_process import PARTITIONS, Gateway
from tests.support.job import Door
from tests.support.key_server import CLIENT, SECRET, ServedKeys, keys_in_a_thread
from tests.support.sinks_process import SinksProcess, select
from tests.support.worker import WorkerProcess

ISSUER, AUDIENCE = "https://platform", "tally"
MACHINE = "a-machine"
QUOTA_EVENTS_S = 100.0
FENCE = "fence"
"""Product, and user's name, of events that say that everything before them is in Postgres."""
FENCE_WITHIN_S = 60.0


class Stored(NamedTuple):
    """A row of `tally.events`, with what the producer gave by `properties`."""

    event_id: str
    user: str | None
    datapoint: str
    source: str
    properties: dict[str, Any] | None


class Platform(KeyServer):
    """A key server that notes what it was asked for."""

    def __init__(self) -> None:
        super().__init__({CLIENT: SECRET})
        self.claims = {"iss": ISSUER, "aud": AUDIENCE}
        self.asked: list[str] = []

    def application(self) -> web.Application:
        app = super().application()
        app.middlewares.append(self._note)
        return app

    @web.middleware
    async def _note(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        self.asked.append(request.path)
        return await handler(request)


class Chain:
    """From the front door to Postgres, with authentication on.

    Attributes:
        key: of `MACHINE`, for everything.
        limited_key: for `QUOTA_EVENTS_S` events a second.
        platform: issues tokens for `CLIENT`.
        gateway: the one that runs, or ran last; all have one port.
    """

    def __init__(self, kafka: LocalKafka, dsn: str, home: Path, keys: ServedKeys) -> None:
        assert isinstance(keys.server, Platform)
        self.kafka = kafka
        self.platform = keys.server
        self.platform_url = keys.base.removesuffix("/identity")
        self._dsn = dsn
        self._keys_file = home / "keys.json"
        self._port = free_port()
        self._settings = {
            "gateway_port": str(self._port),
            "gateway_acknowledge_timeout_s": "1",
            "auth_events": "on",
            "auth_analytics": "on",
            "auth_keys_file": str(self._keys_file),
            "auth_events_key_set_url": keys.url,
            "auth_analytics_key_set_url": keys.url,
            "auth_events_issuer": ISSUER,
            "auth_events_audience": AUDIENCE,
            "events_time_future_s": "86400",
        }
        self._fences = 0
        self.key = self._new_key(MACHINE)
        self.limited_key = self._new_key("limited", events_per_s=QUOTA_EVENTS_S)
        self.gateway = self.start_gateway()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def _new_key(self, name: str, *, events_per_s: float | None = None) -> str:
        """Return an API key that may write everything; the gateway knows it from its next start on."""
        made, shown = new_key(name, created_at=datetime.now(UTC), products=None, streams=None)
        with changing(self._keys_file) as keys:
            keys[made.prefix] = msgspec.structs.replace(made, events_per_s=events_per_s)
        return shown

    def start_gateway(self) -> Gateway:
        """Start the gateway; producers find out for themselves when it takes events."""
        self.gateway = Gateway(self.kafka.servers, **self._settings)
        return self.gateway

    def kill_gateway(self) -> None:
        """End it as a crash would."""
        self.gateway.kill()

    @contextmanager
    def frozen_kafka(self) -> Iterator[None]:
        """Let Kafka take requests and answer none."""
        process = self.kafka._process
        assert process is not None
        process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            process.send_signal(signal.SIGCONT)

    def answers(self, route: str, code: int) -> float:
        """Return how many requests of a route this gateway has answered so."""
        with closing(Door(self._port)) as door:
            return door.metric("tally_gateway_requests_total", route=route, code=str(code))

    def stored(self, product: str) -> list[Stored]:
        """Return every row of a product, in the order of ids, when everything sent before is written."""
        self._fence()
        columns = "event_id, user_id, datapoint, source, properties -> 'properties'"
        query = f"SELECT {columns} FROM tally.events WHERE product = %s ORDER BY event_id, position"
        return [Stored(*row) for row in select(self._dsn, query, product)]

    def counted(self, product: str) -> Counter[str]:
        """Return how many rows each event of a product has, when everything sent before is written."""
        return Counter(row.event_id for row in self.stored(product))

    def _fence(self) -> None:
        """Return when one event more of each partition is written: its rows are, in the order of the log."""
        self._fences += 1
        word = f"{FENCE}-{self._fences}"
        with AnalyticsClient(self.url, self.key, Options(product=FENCE, batch_wait_s=0.01)) as client:
            for user in users_of_every_partition():
                client.capture(word, user)
            assert client.flush(FENCE_WITHIN_S)
        query = "SELECT count(*) FROM tally.events WHERE product = %s AND datapoint = %s"
        eventually(
            lambda: select(self._dsn, query, FENCE, word) == [(PARTITIONS,)], within_s=FENCE_WITHIN_S, what="everything written"
        )


def users_of_every_partition() -> list[str]:
    """Return a user of each partition."""
    found: dict[int, str] = {}
    for number in range(10 * PARTITIONS):
        user = f"{FENCE}-{number}"
        found.setdefault(partition_of(user.encode(), PARTITIONS), user)
    assert len(found) == PARTITIONS
    return list(found.values())


@contextmanager
def own_database(postgres: LocalPostgres) -> Iterator[str]:
    """Make a database with the schema, and drop it at the end."""
    name, admin = f"producers_{uuid.uuid4().hex}", postgres.dsn_of("postgres")
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    try:
        migrate(postgres.dsn_of(name))
        yield postgres.dsn_of(name)
    finally:
        with psycopg.connect(admin, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def running_chain(postgres: LocalPostgres, home: Path) -> Iterator[Chain]:
    """Run everything; yield when each part works."""
    kafka = LocalKafka(home / "kafka")
    with own_database(postgres) as dsn, keys_in_a_thread(Platform()) as keys, ExitStack() as parts:
        parts.callback(kafka.remove)
        parts.callback(kafka.stop)
        kafka.start()
        create_topics(kafka.servers, load_settings({"TALLY_TOPICS_PARTITIONS": str(PARTITIONS)}))
        worker, sinks = WorkerProcess(kafka.servers, home / "worker"), SinksProcess(kafka.servers, dsn, home / "sinks.log")
        chain = Chain(kafka, dsn, home, keys.served)
        for part, end in ((worker.start(wait=False), worker.kill), (sinks.start(), sinks.stop)):
            assert part
            parts.callback(end)
        parts.callback(chain.kill_gateway)
        worker.wait_ready()
        assert chain.counted("") == {}
        yield chain


@contextmanager
def redirecting(url: str) -> Iterator[str]:
    """Yield the URL of a front that redirects `/moved/…` to itself, `/elsewhere/…` to *url*, and passes on all else."""
    target = urlsplit(url)
    assert target.hostname is not None and target.port is not None

    class Front(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            for beginning, base in (("/moved", ""), ("/elsewhere", url)):
                if self.path.startswith(beginning):
                    return self._answer(307, b"", {"Location": base + self.path.removeprefix(beginning)})
            with closing(Door(target.port or 0)) as door:
                passed = {name: value for name, value in self.headers.items() if name.lower() not in ("host", "content-length")}
                answer = door.ask("POST", self.path, body, passed)
            return self._answer(answer.status, answer.body, {})

        def _answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Front)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
