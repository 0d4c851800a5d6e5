"""Break the cost of an event down by stage: each alone on the same bytes, and what a real worker needs besides."""

from __future__ import annotations

from collections.abc import Iterable

from bench.backlogs import filled, run_folder
from bench.case import Case, Figure
from bench.progress import CPU_UNIT
from bench.stages import stage_costs
from bench.workers import count_backlog
from bench.workloads import MANY

EVENTS = 500_000
WARM_PART = 10
DECODE, FOLD, WITH_ROWS = "decode", "fold without rows", "fold with rows"


def measure() -> Iterable[Figure]:
    """Measure the stages, then a worker that does all of it."""
    workload = MANY.sized(EVENTS)
    with run_folder() as home:
        stages = told_apart(stage_costs(workload, home, warm=workload.events // WARM_PART))
    yield from (Figure(name, cost, CPU_UNIT) for name, cost in stages.items())
    with filled(MANY) as backlog:
        whole = count_backlog(backlog).cpu_us
    yield Figure("the rest: loop, sockets, Faust, partial blocks, commits", whole - sum(stages.values()), CPU_UNIT)
    yield Figure("a worker, all of it", whole, CPU_UNIT)


def told_apart(costs: dict[str, float]) -> dict[str, float]:
    """Return stages that add up: folding without what decoding takes, rows without what folding takes.

    >>> told_apart({"decode": 1.0, "fold without rows": 1.5, "fold with rows": 3.0, "RocksDB": 4.0})
    {'decode': 1.0, 'fold': 0.5, 'rows': 1.5, 'RocksDB': 4.0}
    """
    parts: dict[str, float] = {}
    for stage, cost in costs.items():
        if stage == FOLD:
            parts["fold"] = cost - costs[DECODE]
        elif stage == WITH_ROWS:
            parts["rows"] = cost - costs[FOLD]
        else:
            parts[stage] = cost
    return parts


CASE = Case("stages", "where the time of an event goes, aggregates and profiles", measure)
