"""The client library: ten threads that capture 10,000 events each while the gateway is killed and started again.

Producer, gateway and Kafka share the machine, as in no production: a thread that waits for a processor is a slow call.
The gateway dies by SIGKILL when a third of the events is in the topic, and comes back at the same port; each event must
then be in the topic under its own id. One that Kafka has acknowledged but the gateway has not answered comes twice, and
the worker counts it once.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from bench.backlogs import run_folder
from bench.case import Case, Figure
from bench.cases.gateway import empty_kafka, records_in_topic, running_gateway
from bench.programs import ROOT
from bench.progress import CPU_UNIT, BenchError
from stack.ports import LOOPBACK
from streams.clock import SYSTEM_CLOCK
from streams.codecs import Codec
from streams.reading import Reader
from streams.settings import Kafka
from streams.topics import EVENTS

THREADS, EVENTS_A_THREAD = 10, 10_000
ALL = THREADS * EVENTS_A_THREAD
KILLED_AT = ALL // 3
POLL_S = 0.02
DONE_WITHIN_S = 180.0
P99_US_MAX = 50.0


def measure() -> Iterator[Figure]:
    """Run a Kafka, a gateway twice, and the producer over both."""
    with run_folder() as home, empty_kafka(home) as servers:
        log = home / "gateway.log"
        with running_gateway(servers, log) as gateway, producing(gateway.port) as producer:
            wait_for_records(servers, KILLED_AT)
            os.kill(gateway.pid, signal.SIGKILL)
            with running_gateway(servers, log, {"TALLY_GATEWAY_PORT": str(gateway.port)}):
                said, _ = producer.communicate(timeout=DONE_WITHIN_S)
        if producer.returncode:
            raise BenchError("the producer was not done in time")
        yield from figures(json.loads(said), ids_in_topic(servers))


def figures(said: dict[str, Any], ids: Counter[str]) -> Iterator[Figure]:
    """Yield what the producer measured, and what became of its events.

    Raises:
        BenchError: the client says otherwise than the topic.
    """
    if said["stats"] != {"accepted": ALL, "delivered": ALL, "failed": {}, "waiting": 0}:
        raise BenchError(f"the client says {said['stats']}")
    for share, goal in (("50", None), ("95", None), ("99", P99_US_MAX), ("99.9", None)):
        yield Figure(f"capture, p{share}", said[f"p{share}_us"], "µs", goal=goal)
    yield Figure("capture, wall", ALL / said["captured_s"], "events/s", more_is_better=True)
    yield Figure("calls of 50 µs and more", said["slow"] / ALL * 100, "%")
    yield Figure("threads stopped by the kernel meanwhile", said["preempted"], "times")
    yield Figure("CPU, sending included", said["cpu_s"] / ALL * 1e6, CPU_UNIT)
    yield Figure("all delivered after", said["done_s"], "s")
    yield Figure("lost", ALL - len(ids), "events", goal=0)
    yield Figure("twice in the topic", ids.total() - len(ids), "events")


@contextmanager
def producing(port: int) -> Iterator[subprocess.Popen[str]]:
    """Run the producer; none is left behind."""
    plan = [f"--threads={THREADS}", f"--events={EVENTS_A_THREAD}", f"http://{LOOPBACK}:{port}"]
    command = [sys.executable, "-m", "bench.client_load", *plan]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "client")}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for_records(servers: str, count: int) -> None:
    """Return when so many events are in the topic.

    Raises:
        BenchError: they do not come.
    """
    until_s = SYSTEM_CLOCK.monotonic_s() + DONE_WITHIN_S
    while records_in_topic(servers, EVENTS.topic) < count:
        if SYSTEM_CLOCK.monotonic_s() > until_s:
            raise BenchError(f"{count} events did not come into the topic")
        time.sleep(POLL_S)


def ids_in_topic(servers: str) -> Counter[str]:
    """Return how often each event is in the topic."""
    decode = Codec(EVENTS).decode
    with closing(Reader(Kafka(servers=servers))) as reader:
        records = reader.topic_records(EVENTS.topic, reader.bounds(EVENTS.topic))
        return Counter(decode(record.value)[0].id for _, record in records)


CASE = Case("client", "the client library: ten threads, the gateway killed in between", measure)
