"""Ask a worker for profiles and for aggregates of ten minutes while it works off a backlog as fast as it can."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bench.backlogs import filled
from bench.case import Case, Figure
from bench.clients import asking, told_by
from bench.progress import CPU_UNIT, RATE_UNIT, wait_for, work_off
from bench.workers import check, counted_by, pids_of, running_workers
from bench.workloads import MANY

EVENTS = 5_000_000
FIRST_PART = 0.25
"""What is counted before anybody asks: the ten minutes that are asked for hold 1,200,000 events."""
PROFILES_PER_S = 20.0
AGGREGATES_PER_S = 2.0
GOAL_PROFILE_MS = 100.0
GOAL_AGGREGATES_MS = 150.0


def measure() -> Iterable[Figure]:
    """Measure latencies from the first quarter of the backlog to its end, seen from another process."""
    workload = MANY.sized(EVENTS)
    with filled(workload) as backlog, running_workers(backlog) as workers:
        pids = pids_of(workers)
        wait_for(pids, lambda: counted_by(workers), int(workload.events * FIRST_PART))
        with asking(workers[0].url, backlog, profiles_per_s=PROFILES_PER_S, aggregates_per_s=AGGREGATES_PER_S) as client:
            worked = work_off(pids, lambda: counted_by(workers), workload.events)
            told = told_by(client)
        check(backlog, workers[0])
    yield from latencies("profile", told["profiles"], GOAL_PROFILE_MS)
    yield from latencies("aggregates of 10 minutes", told["aggregates"], GOAL_AGGREGATES_MS)
    yield Figure("CPU with queries", worked.cpu_us, CPU_UNIT)
    yield Figure("wall with queries", worked.events_per_s, RATE_UNIT, more_is_better=True)


def latencies(name: str, asked: Mapping[str, float], goal_ms: float) -> Iterable[Figure]:
    """Yield the percentiles of one kind of question."""
    yield Figure(f"{name}, p50", asked["p50_ms"], "ms")
    yield Figure(f"{name}, p99", asked["p99_ms"], "ms", goal_ms)
    yield Figure(f"{name}, max", asked["max_ms"], "ms")
    yield Figure(f"{name}, asked", asked["count"], "queries", more_is_better=True)


CASE = Case("queries_backlog", "queries while a worker works off a backlog at full speed", measure)
