"""The stress test of the Labs, P19: 1,000 transactions of 10 datapoints by 16 threads, within 3 s and all of them 200.

Each of some rounds is the whole test; threads have a kept connection each, and wait for each answer. The clients, in Python,
share the machine with Kafka and the gateway. Every 200 must be a record in the topic.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection
from statistics import median
from time import perf_counter
from urllib.request import urlopen

from bench.backlogs import run_folder
from bench.case import Case, Figure
from bench.cases.gateway import ANSWER_TIMEOUT_S, RATE_UNIT, Gateway, empty_kafka, records_in_topic, running_gateway
from bench.progress import BenchError
from stack.ports import LOOPBACK
from streams.topics import EVENTS

REQUESTS, DATAPOINTS, THREADS = 1_000, 10, 16
ROUNDS = 5
GOAL_S = 3.0
LAG_GOAL_MS = 50.0
"""Of P22: how late the gateway's loop may be meanwhile."""
LAG = "tally_loop_lag_seconds "


def measure() -> Iterator[Figure]:
    """Run a Kafka and a gateway, no Postgres, and put the stress on it."""
    with run_folder() as home, empty_kafka(home) as servers, running_gateway(servers, home / "gateway.log") as gateway:
        rounds = [stress(gateway, number) for number in range(ROUNDS)]
        took_s = median(rounds)
        yield Figure("1,000 transactions, 16 threads", took_s, "s", goal=GOAL_S)
        yield Figure("slowest round", max(rounds), "s", goal=GOAL_S)
        yield Figure("rate", REQUESTS / took_s, RATE_UNIT, more_is_better=True)
        yield Figure("the loop was late by", loop_lag_s(gateway) * 1_000, "ms", goal=LAG_GOAL_MS)


def stress(gateway: Gateway, number: int) -> float:
    """Run the test once and return how long it took, s.

    Raises:
        BenchError: an answer was not 200, or not as many records are in the topic.
    """
    before = records_in_topic(gateway.servers, EVENTS.topic)
    bodies = [body_of(number * REQUESTS + each) for each in range(REQUESTS)]
    with ThreadPoolExecutor(THREADS) as pool:
        started_s = perf_counter()
        statuses = list(pool.map(lambda own: post_all(gateway.port, own), (bodies[n::THREADS] for n in range(THREADS))))
        took_s = perf_counter() - started_s
    written = records_in_topic(gateway.servers, EVENTS.topic) - before
    if {200} != {status for own in statuses for status in own} or written != REQUESTS:
        raise BenchError(f"{written} of {REQUESTS} transactions in the topic, or an answer was not 200")
    return took_s


def body_of(number: int) -> bytes:
    """Return a transaction of its own."""
    data = [{"key": f"user.click.{each}", "value": str(number)} for each in range(DATAPOINTS)]
    return json.dumps({"product": 3, "pennkey": "judtin", "timestamp": 1_704_067_200 + number, "data": data}).encode()


def post_all(port: int, bodies: Sequence[bytes]) -> list[int]:
    """Post one after another on one connection and return the statuses."""
    statuses = []
    with closing(HTTPConnection(LOOPBACK, port, timeout=ANSWER_TIMEOUT_S)) as connection:
        for body in bodies:
            connection.request("POST", "/analytics/", body)
            with connection.getresponse() as answer:
                answer.read()
                statuses.append(answer.status)
    return statuses


def loop_lag_s(gateway: Gateway) -> float:
    """Return the longest time by which the gateway's loop was late of late, as it says itself."""
    with urlopen(f"http://{LOOPBACK}:{gateway.port}/metrics", timeout=ANSWER_TIMEOUT_S) as answer:
        lines = answer.read().decode().splitlines()
    return next(float(line.removeprefix(LAG)) for line in lines if line.startswith(LAG))


CASE = Case("stress_of_labs", "1,000 transactions of Labs by 16 threads", measure)
