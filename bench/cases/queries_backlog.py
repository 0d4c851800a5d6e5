"""Ask a worker for profiles and for aggregates of ten minutes while it works off a backlog as fast as it can."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from bench.backlogs import Backlog, filled
from bench.case import Case, Figure
from bench.progress import CPU_UNIT, RATE_UNIT, BenchError, wait_for, work_off
from bench.workers import check, counted_by, pids_of, running_workers
from bench.workloads import MANY
from stack.processes import ROOT
from tests.support.worker import WorkerProcess

EVENTS = 5_000_000
FIRST_PART = 0.25
"""What is counted before anybody asks: the ten minutes that are asked for hold 1,200,000 events."""
RUNS = 3
GOAL_PROFILE_MS = 100.0
GOAL_AGGREGATES_MS = 150.0
LAST_ANSWERS_WITHIN_S = 90.0


def measure() -> Iterable[Figure]:
    """Measure latencies from the first quarter of the backlog to its end, seen from another process."""
    workload = MANY.sized(EVENTS)
    with filled(workload) as backlog, running_workers(backlog) as workers:
        pids = pids_of(workers)
        wait_for(pids, lambda: counted_by(workers), int(workload.events * FIRST_PART))
        with asking(backlog, workers[0]) as client:
            worked = work_off(pids, lambda: counted_by(workers), workload.events)
            told = _told_by(client)
        check(backlog, workers[0])
    yield from _latencies("profile", told["profiles"], GOAL_PROFILE_MS)
    yield from _latencies("aggregates of 10 minutes", told["aggregates"], GOAL_AGGREGATES_MS)
    yield Figure("CPU with queries", worked.cpu_us, CPU_UNIT)
    yield Figure("wall with queries", worked.events_per_s, RATE_UNIT, more_is_better=True)


@contextmanager
def asking(backlog: Backlog, worker: WorkerProcess) -> Iterator[subprocess.Popen[str]]:
    """Run the client; it asks until its standard input is closed."""
    first_minute = min(minute for minute, _ in backlog.totals)
    command = [sys.executable, "-m", "bench.asking", worker.url, str(first_minute)]
    client = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield client
    finally:
        client.kill()
        client.communicate()


def _told_by(client: subprocess.Popen[str]) -> dict[str, dict[str, float]]:
    output, _ = client.communicate(timeout=LAST_ANSWERS_WITHIN_S)
    told: dict[str, dict[str, Any]] = json.loads(output)
    wrong = {kind: asked["wrong"] for kind, asked in told.items() if asked["wrong"] or not asked["count"]}
    if wrong:
        raise BenchError(f"wrong answers, or none: {told}")
    return told


def _latencies(name: str, asked: Mapping[str, float], goal_ms: float) -> Iterable[Figure]:
    yield Figure(f"{name}, p50", asked["p50_ms"], "ms")
    yield Figure(f"{name}, p99", asked["p99_ms"], "ms", goal_ms)
    yield Figure(f"{name}, max", asked["max_ms"], "ms")
    yield Figure(f"{name}, asked", asked["count"], "queries", more_is_better=True)


CASE = Case("queries_backlog", "queries while a worker works off a backlog at full speed", measure, runs=RUNS)
