"""Run the idiomatic Faust program on a twentieth of the events: its cost of one does not depend on their number."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from urllib.error import URLError

from bench.backlogs import Backlog, filled
from bench.case import Case, Figure
from bench.progress import BenchError, work_off
from bench.workloads import MANY
from stack.ports import free_port
from stack.processes import ROOT
from tests.support.worker import get

PART = 20
ANSWER_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 30.0


def measure() -> Iterable[Figure]:
    """Measure it from a warm start to the last event, and compare its totals with what was sent."""
    with filled(MANY.sized(2_000_000 // PART)) as backlog, running(backlog) as (pid, url):
        worked = work_off([pid], lambda: int(_ask(f"{url}/counted")["counted"]), backlog.workload.events)
        _check(backlog, url)
    return worked.figures()


@contextmanager
def running(backlog: Backlog) -> Iterator[tuple[int, str]]:
    """Run the program; yield its process id and its address."""
    port = free_port()
    data = backlog.home / "idiomatic"
    names = {"BENCH_KAFKA_SERVERS": backlog.servers, "BENCH_DATA": str(data), "BENCH_WEB_PORT": str(port)}
    command = [sys.executable, "-m", "faust", "-A", "bench.idiomatic", "worker", "-l", "warn"]
    with (backlog.home / "idiomatic.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **names}, stdout=log, stderr=log)
    try:
        yield process.pid, f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait(STOP_TIMEOUT_S)


def _ask(url: str) -> dict[str, int]:
    status, answer = get(url, timeout_s=ANSWER_TIMEOUT_S)
    if status != 200:
        raise URLError(f"{status}: {answer}")
    told: dict[str, int] = answer
    return told


def _check(backlog: Backlog, url: str) -> None:
    wanted: Counter[str] = Counter()
    for totals in backlog.totals.values():
        wanted.update(count=totals.count, price_sum=totals.price_sum)
    told = _ask(f"{url}/totals")
    if told != dict(wanted):
        raise BenchError(f"the idiomatic program tells {told}, not {dict(wanted)}")


CASE = Case("idiomatic", "idiomatic Faust, aggregates alone", measure)
