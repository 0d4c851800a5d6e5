"""Row A20: one user with a tenth of all events, one origin with all of them; the cost of an event must not care."""

from __future__ import annotations

from collections.abc import Iterable

from bench.backlogs import filled
from bench.case import Case, Figure
from bench.progress import CPU_UNIT
from bench.workers import count_backlog
from bench.workloads import HOT_COOKIE, HOT_ORIGIN, MANY

GOAL_RATIO = 1.2


def measure() -> Iterable[Figure]:
    """Measure the three backlogs one after the other, profiles on."""
    costs = {}
    for workload in (MANY, HOT_COOKIE, HOT_ORIGIN):
        with filled(workload) as backlog:
            costs[workload.name] = count_backlog(backlog).cpu_us
    usual = costs.pop(MANY.name)
    yield Figure("no hot key, CPU", usual, CPU_UNIT)
    for name, cost in costs.items():
        yield Figure(f"{name}, CPU", cost, CPU_UNIT)
        yield Figure(f"{name} over no hot key", cost / usual, "ratio", GOAL_RATIO)


CASE = Case("hot_keys", "one user with 10 % of all events, one origin with 100 %", measure)
