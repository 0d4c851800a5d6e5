"""The Labs' products while Postgres is away, against a whole job: 20 s of it, or with LONG=1 the ten minutes of the row."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import pytest

from gateway.analytics import STORED
from gateway.analytics_txn import Product
from load.histogram import Histogram
from stack.postgres import LocalPostgres
from streams.clock import SYSTEM_CLOCK
from tests.support.eventually import eventually
from tests.support.gateway_process import running_gateway
from tests.support.job import Door, own_kafka
from tests.support.sinks_process import SinksProcess, select
from tests.support.worker import WorkerProcess

log = logging.getLogger(__name__)

IS_LONG = os.environ.get("LONG", "") not in ("", "0")
TXNS_PER_S = 300
WARM_S, BEFORE_S, AWAY_S, AFTER_S = (10, 60, 600, 20) if IS_LONG else (2, 8, 20, 3)
IN_POSTGRES_WITHIN_S = 1_200.0 if IS_LONG else 120.0
ANSWER_TIMEOUT_S = 30.0
TIMES_SLOWER_MAX = 5
NOISE_S = 0.25
"""Of p99 on a machine that runs the whole job and other tests: what would wait for Postgres would wait for seconds."""
SENT_AGAIN_EVERY = 40
"""Of a back end's transactions; what is sent again is one of some seconds ago, or of before the outage."""
AGAIN_BACK = 30
START_S = 1_704_067_200
HEAD = b"POST /analytics/ HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\n\r\n%b"
OK = b"HTTP/1.1 200 "
STATES_SQL = "SELECT state, attempts, count(*) FROM tally.txn_log WHERE datapoints > 0 GROUP BY 1, 2"
ROWS_SQL = """
    SELECT datapoint, value, extract(epoch FROM "timestamp")::bigint FROM tally.event
    WHERE product = %s AND pennkey = %s ORDER BY id
"""


class BackEnd(NamedTuple):
    """One of a product; what it sends it sends in order."""

    product: Product
    user: str


BACK_ENDS = [BackEnd(product, f"user-{number}") for number in range(4) for product in Product]


@dataclass
class Traffic:
    """Eleven products with some back ends each, which send one transaction after another, each at its time.

    Attributes:
        port: of the gateway.
        stage: what the latencies of now are counted under; they count from when a transaction was due.
        sent: numbers of each back end's transactions in their order, without those sent again.
        again: how many were.
        answers: how often there was which.
    """

    port: int
    stage: str = "warm"
    started_s: float = 0.0
    is_over: bool = False
    again: int = 0
    latencies: defaultdict[str, Histogram] = field(default_factory=lambda: defaultdict(Histogram))
    sent: defaultdict[BackEnd, list[int]] = field(default_factory=lambda: defaultdict(list))
    answers: Counter[bytes] = field(default_factory=Counter)

    async def run(self) -> None:
        """Send until it is over."""
        self.started_s = SYSTEM_CLOCK.monotonic_s()
        await asyncio.gather(*map(self._send_as, BACK_ENDS))

    def goes_on_for(self, seconds: float) -> None:
        """Return when so many seconds' transactions were answered from now on; another thread sends."""
        wanted = self.count + seconds * TXNS_PER_S
        eventually(lambda: self.count >= wanted, within_s=3 * seconds + 60, what=f"{wanted} answers")

    @property
    def count(self) -> int:
        """How many transactions were answered, without those sent again."""
        return sum(map(len, self.sent.values()))

    async def _send_as(self, back_end: BackEnd) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        number = BACK_ENDS.index(back_end)
        while not self.is_over:
            mine = self.sent[back_end]
            due_s = self.started_s + number / TXNS_PER_S
            await asyncio.sleep(due_s - SYSTEM_CLOCK.monotonic_s())
            await self._send(reader, writer, body_of(back_end, number), due_s=due_s)
            mine.append(number)
            if len(mine) % SENT_AGAIN_EVERY == 0:
                await self._send(reader, writer, body_of(back_end, mine[-AGAIN_BACK]), due_s=SYSTEM_CLOCK.monotonic_s())
                self.again += 1
            number += len(BACK_ENDS)
        writer.close()
        await writer.wait_closed()

    async def _send(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes, *, due_s: float) -> None:
        latencies = self.latencies[self.stage]
        writer.write(HEAD % (len(body), body))
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), ANSWER_TIMEOUT_S)
        self.answers[head[: len(OK)] + await reader.readexactly(length_of(head))] += 1
        latencies.add(max(0.0, SYSTEM_CLOCK.monotonic_s() - due_s))


def length_of(head: bytes) -> int:
    return next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))


def data_of(number: int) -> list[tuple[str, str]]:
    """Return the datapoints of a transaction: two of them are the same."""
    return [("number", str(number)), ("user.click", "1"), ("user.click", "1")]


def body_of(back_end: BackEnd, number: int) -> bytes:
    data = [{"key": key, "value": value} for key, value in data_of(number)]
    txn = {"product": int(back_end.product), "pennkey": back_end.user, "timestamp": START_S + number, "data": data}
    return json.dumps(txn).encode()


def rows_of(numbers: list[int]) -> Iterator[tuple[object, ...]]:
    """Yield the rows that a back end's transactions are."""
    for number in numbers:
        for key, value in data_of(number):
            yield key, value, START_S + number


@pytest.fixture
def gateway_port(tmp_path: Path, fresh_database: str) -> Iterator[int]:
    """The port of a gateway whose worker and sinks run."""
    with own_kafka(tmp_path / "kafka") as servers:
        worker = WorkerProcess(servers, tmp_path / "job").start()
        sinks = SinksProcess(servers, fresh_database, tmp_path / "sinks.log")
        assert sinks.once("migrate").returncode == 0
        sinks.start()
        try:
            with running_gateway(servers, gateway_workers=worker.url, gateway_acknowledge_timeout_s="10") as gateway:
                with closing(Door(gateway.port)) as door:
                    eventually(lambda: takes_transactions(door), what="the gateway takes transactions")
                yield gateway.port
        finally:
            sinks.stop()
            worker.kill()


def takes_transactions(door: Door) -> bool:
    """Send a transaction without datapoints, which leaves no rows."""
    return door.ask("POST", "/analytics/", json.dumps({"product": 0, "timestamp": START_S, "data": []}).encode()).status == 200


@contextmanager
def away(postgres: LocalPostgres) -> Iterator[None]:
    """Run without Postgres; whatever happens, it is there afterwards."""
    postgres.stop()
    try:
        yield
        assert not postgres.is_ready()
    finally:
        postgres.start()


def states(dsn: str) -> dict[tuple[str, int], int]:
    """Return how many transactions are in which state, after how many attempts."""
    return {(state, attempts): count for state, attempts, count in select(dsn, STATES_SQL)}


def put_through_an_outage(traffic: Traffic, postgres: LocalPostgres) -> None:
    """Send before, while and after Postgres is away."""
    with ThreadPoolExecutor(1) as sender:  # Postgres dies with the thread that has started it: it is for the main one.
        sending = sender.submit(asyncio.run, traffic.run())
        try:
            traffic.goes_on_for(WARM_S)
            traffic.stage = "before"
            traffic.goes_on_for(BEFORE_S)
            traffic.stage = "stopping"
            with away(postgres):
                traffic.stage = "while"
                traffic.goes_on_for(AWAY_S)
                traffic.stage = "starting"
            traffic.stage = "after"
            traffic.goes_on_for(AFTER_S)
        finally:
            traffic.is_over = True
        sending.result()


@pytest.mark.timeout(2_400 if IS_LONG else 300)
def test_products_do_not_notice_that_postgres_is_away_and_all_rows_come_once(
    gateway_port: int, fresh_database: str, postgres: LocalPostgres
) -> None:
    """P1, P2, P13: all 200, as fast as before; then every row once, in the order of its sender, and the log (P12) agrees."""
    traffic = Traffic(gateway_port)
    put_through_an_outage(traffic, postgres)
    assert set(traffic.answers) == {OK + STORED}
    before_s, while_s = (traffic.latencies[stage].quantile_s(0.99) for stage in ("before", "while"))
    for stage, latencies in traffic.latencies.items():
        p50_ms, p99_ms = (latencies.quantile_s(fraction) * 1_000 for fraction in (0.5, 0.99))
        log.info("%s: %d answers, p50 %.1f ms, p99 %.1f ms", stage, latencies.count, p50_ms, p99_ms)

    expected = {("DONE", 1): traffic.count - traffic.again, ("DONE", 2): traffic.again}
    eventually(lambda: states(fresh_database) == expected, within_s=IN_POSTGRES_WITHIN_S, what=f"the log says {expected}")
    for (product, user), numbers in traffic.sent.items():
        found = select(fresh_database, ROWS_SQL, product.name, user)
        # The first difference: told in full, those of half a million rows would take longer than the outage.
        assert next((pair for pair in zip_longest(found, rows_of(numbers)) if pair[0] != pair[1]), None) is None, (
            product,
            user,
        )
    assert while_s < max(TIMES_SLOWER_MAX * before_s, NOISE_S)
