"""A rolling restart behind the real balancer: two gateways, two workers and the sinks, each in its turn, under load."""

from __future__ import annotations

import asyncio
import logging
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from urllib.parse import urlencode

import psycopg
import pytest

from load.client import Client, Request
from sinks.migrate import migrate
from stack.ports import free_port
from stack.postgres import LocalPostgres
from streams.topics import USER_TAGS
from tests.support.eventually import eventually
from tests.support.gateway_process import Gateway
from tests.support.haproxy import LOOPBACK, Balancer, a_balancer, haproxy
from tests.support.job import Door, minutes_from, own_kafka
from tests.support.oracle import Oracle, oracle_of, read_topic
from tests.support.sinks_process import SinksProcess
from tests.support.tags import START_TEXT, some_tags
from tests.support.worker import WorkerProcess, get

log = logging.getLogger(__name__)

SEED = 18
RATE = 500
QUERIES_PER_TAG = 0.04
TICK_S = 0.01
MINUTES = 10
ANSWER_TIMEOUT_S = 60.0
ENDED_WITHIN_S = 10.0
"""Issue 6, point 7: SIGTERM drains in less."""
QUERY_TIMEOUT_S = 30
PROFILES = 200
BOTH = ("COUNT", "SUM_PRICE")
PLACES = {"gateway-1": 0, "gateway-2": 1}


@dataclass
class Seen:
    """What clients of the balancer saw.

    Attributes:
        acknowledged: bodies of events answered 204.
        failures: every other answer: what was asked, status, body.
        slowest_s: the longest wait for a query.
    """

    acknowledged: list[bytes] = field(default_factory=list)
    failures: list[tuple[str, int, bytes]] = field(default_factory=list)
    answered: int = 0
    slowest_s: float = 0.0


class Traffic:
    """Sends events and queries at their time, whatever the answers do, on a thread of its own."""

    def __init__(self, port: int) -> None:
        self.seen = Seen()
        self._port = port
        self._over = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="traffic")

    def __enter__(self) -> Seen:
        self._thread.start()
        return self.seen

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    async def _run(self) -> None:
        client = Client(LOOPBACK, self._port)
        tags = some_tags(SEED, 1_000_000, minutes=MINUTES)
        started_s, sent, asked = perf_counter(), 0, 0
        while not self._over.is_set():
            due = int((perf_counter() - started_s) * RATE)
            for _ in range(due - sent):
                self._send_tag(client, next(tags).value)
            sent = due
            while asked < sent * QUERIES_PER_TAG:
                asked += 1
                self._send_query(client, asked)
            await asyncio.sleep(TICK_S)
        while client.waiting:
            await asyncio.sleep(TICK_S)
        await client.close()

    def _send_tag(self, client: Client, body: bytes) -> None:
        head = f"POST /user_tags HTTP/1.1\r\nHost: t\r\nContent-Length: {len(body)}\r\n\r\n".encode()

        def done(status: int, answer: bytes) -> None:
            if status == 204:
                self.seen.acknowledged.append(body)
            else:
                self.seen.failures.append(("tag", status, answer))

        client.send(Request(head + body, perf_counter(), ANSWER_TIMEOUT_S, done))

    def _send_query(self, client: Client, number: int) -> None:
        target = aggregates_target() if number % 2 else f"/user_profiles/user-{number % 97}?{urlencode({'time_range': ALWAYS})}"
        sent_s = perf_counter()

        def done(status: int, answer: bytes) -> None:
            self.seen.slowest_s = max(self.seen.slowest_s, perf_counter() - sent_s)
            if status == 200:
                self.seen.answered += 1
            else:
                self.seen.failures.append((target, status, answer))

        head = f"POST {target} HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\n\r\n".encode()
        client.send(Request(head, sent_s, ANSWER_TIMEOUT_S, done))


ALWAYS = "1970-01-01T00:00:00_9999-12-31T23:59:59.999"


def aggregates_target() -> str:
    """Return a query that wants every partition."""
    fields = [("time_range", minutes_from(START_TEXT, MINUTES)), ("action", "VIEW"), *(("aggregates", name) for name in BOTH)]
    return f"/aggregates?{urlencode(fields)}"


@dataclass
class System:
    """Everything behind the balancer, and the balancer."""

    servers: str
    dsn: str
    workers: list[WorkerProcess]
    gateway_ports: list[int]
    sinks: SinksProcess
    balancer: Balancer
    gateways: list[Gateway] = field(default_factory=list)

    def a_gateway(self, port: int) -> Gateway:
        """Start a gateway with the drain time that ships."""
        return Gateway(
            self.servers,
            gateway_port=str(port),
            gateway_workers=",".join(worker.url for worker in self.workers),
            gateway_query_timeout_s=str(QUERY_TIMEOUT_S),
            gateway_drain_s="3",
        )

    def kill_gateways(self) -> None:
        """End those that a test left running."""
        for gateway in self.gateways:
            gateway.kill()


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder for the workers' state."""
    folder = Path(tempfile.mkdtemp(prefix="tally-rolling-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def system(home: Path, postgres: LocalPostgres, fresh_database: str) -> Iterator[System]:
    """The whole job behind HAProxy, all of it ready."""
    haproxy()
    migrate(fresh_database)
    with ExitStack() as stack:
        servers = stack.enter_context(own_kafka(home / "kafka"))
        workers = [
            WorkerProcess(servers, home / "job", index=index, settings={"TALLY_WORKER_DRAIN_S": "2"}) for index in range(2)
        ]
        for worker in workers:
            stack.callback(worker.kill)
            worker.start(wait=False)
        ports = [free_port(), free_port()]
        sinks = SinksProcess(servers, fresh_database, home / "sinks.log").start()
        stack.callback(sinks.stop)
        balancer = stack.enter_context(a_balancer(ports))
        made = System(servers, fresh_database, workers, ports, sinks, balancer)
        for port in ports:
            made.gateways.append(made.a_gateway(port))
        stack.callback(made.kill_gateways)
        for worker in workers:
            worker.wait_ready()
        balancer.wait_up("gateway-1", "gateway-2")
        yield made


def ended_after_s(port: int, is_running: Callable[[], bool], terminate: Callable[[], None]) -> float:
    """Stop a process in order, check that it says so while it still serves, and return how long all of it took."""
    started_s = time.monotonic()
    thread = threading.Thread(target=terminate)
    thread.start()
    with closing(Door(port)) as door:
        eventually(lambda: b"stop" in door.ask("GET", "/ready").body, within_s=ENDED_WITHIN_S, what="a word of the stop")
        assert door.ask("GET", "/ready").status == 503
        assert door.ask("GET", "/live").status == 200, "readiness falls first, service goes on"
        assert is_running()
    thread.join()
    return time.monotonic() - started_s


def restart_gateway(system: System, name: str) -> float:
    """Restart a gateway, the balancer having taken it out before it closes its port; return how long it took to end."""
    place = PLACES[name]
    gateway = system.gateways[place]
    taken_out: list[bool] = []

    def watch() -> None:
        eventually(lambda: system.balancer.states("tags")[name].startswith("DOWN"), within_s=ENDED_WITHIN_S)
        taken_out.append(gateway.process.poll() is None)

    watching = threading.Thread(target=watch)
    watching.start()
    took_s = ended_after_s(
        system.gateway_ports[place], lambda: gateway.process.poll() is None, lambda: _check_exit(gateway.end()[0])
    )
    watching.join()
    assert taken_out == [True], "the balancer knew before the gateway ended"
    gateway.kill()
    system.gateways[place] = system.a_gateway(system.gateway_ports[place])
    system.balancer.wait_up(name)
    return took_s


def _check_exit(code: int) -> None:
    assert code == 0


def restart_worker(system: System, index: int) -> float:
    """Restart a worker; return how long it took to end."""
    worker = system.workers[index]
    process = worker.process
    assert process is not None
    took_s = ended_after_s(worker.port, lambda: process.poll() is None, worker.stop)
    assert process.returncode == 0
    worker.start()
    for other in system.workers:
        other.wait_ready()
    return took_s


def test_rolling_restart_loses_nothing_and_answers_everything(system: System) -> None:
    """A18, issue 6: each process in turn under 500 tags/s and queries; no 5xx, nothing lost, nothing twice, under 10 s each."""
    took_s: dict[str, float] = {}
    with Traffic(system.balancer.port) as seen:
        eventually(lambda: seen.answered > 20, what="answers")
        for name in PLACES:
            took_s[name] = restart_gateway(system, name)
        for index in range(2):
            took_s[f"worker-{index}"] = restart_worker(system, index)
        started_s = time.monotonic()
        assert system.sinks.terminate() == 0
        took_s["sinks"] = time.monotonic() - started_s
        system.sinks.start()
        answered = seen.answered
        eventually(lambda: seen.answered > answered + 20, what="answers at the end")
    log.info("ended after %s; %d events, slowest query %.1f s", took_s, len(seen.acknowledged), seen.slowest_s)
    assert seen.failures == []
    assert max(took_s.values()) < ENDED_WITHIN_S, took_s
    assert Counter(record.value for record in read_topic(system.servers, USER_TAGS.topic)) == Counter(seen.acknowledged)
    oracle = oracle_of(system.servers, USER_TAGS.topic)
    check_answers(system.balancer.port, oracle)
    eventually(lambda: stored_totals(system.dsn) == oracle.totals(), within_s=60, what="the same in Postgres")


def check_answers(port: int, oracle: Oracle) -> None:
    """Check that the balancer's answers are those of the oracle of the whole topic."""
    questions = [{"action": "VIEW"}, {"action": "BUY"}, {"action": "VIEW", "origin": "ORIGIN_0"}]
    users = sorted({cookie for cookie, _ in oracle.users})[:PROFILES]
    with closing(Door(port)) as door:
        for filters in questions:
            expected = oracle.aggregates(START_TEXT, MINUTES, BOTH, filters)
            eventually(
                lambda filters=filters, expected=expected: (  # type: ignore[misc]
                    door.aggregates(START_TEXT, MINUTES, BOTH, filters).json == expected
                ),
                within_s=60,
                what=f"exact counts of {filters}",
            )
        wrong = [user for user in users if door.profile(user).json != oracle.profile(user, 0, 1 << 60)]
    assert wrong == []


def stored_totals(dsn: str) -> dict[tuple[str, ...], tuple[int, int]]:
    """Return what Postgres says, as the oracle writes it."""
    columns = "to_char(minute_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI'), action, origin, brand_id, category_id"
    with psycopg.connect(dsn) as connection:
        rows = connection.execute(f"SELECT {columns}, event_count, price_sum FROM tally.minute_aggregates").fetchall()
    return {tuple(cell): (count, total) for *cell, count, total in rows}


def test_balancer_goes_round_and_leaves_out_what_is_gone(system: System) -> None:
    """A18: both gateways are used; one that is killed outright is taken out within seconds, and taken back."""
    with closing(Door(system.balancer.port)) as door:
        for number in range(10):
            assert door.ask("POST", "/user_tags", next(some_tags(number, 1)).value).status == 204
        for port in system.gateway_ports:
            with closing(Door(port)) as direct:
                assert direct.metric("tally_gateway_requests_total", route="user_tags", code="204") == 5
        system.gateways[0].process.kill()
        eventually(lambda: system.balancer.states("tags")["gateway-1"].startswith("DOWN"), what="gateway-1 out")
        assert {door.ask("POST", "/user_tags", next(some_tags(number, 1)).value).status for number in range(10)} == {204}
    system.gateways[0].kill()
    system.gateways[0] = system.a_gateway(system.gateway_ports[0])
    system.balancer.wait_up("gateway-1")


def test_events_are_taken_while_no_worker_is_there(system: System) -> None:
    """delivery.md: queries want workers, events do not; the balancer asks each kind of gateway for what it needs."""
    for worker in system.workers:
        worker.kill()
    with closing(Door(system.balancer.port)) as door:
        assert door.ask("POST", "/user_tags", next(some_tags(SEED, 1)).value).status == 204
    assert [get(f"http://{LOOPBACK}:{port}/ready?for=events")[0] for port in system.gateway_ports] == [200, 200]
