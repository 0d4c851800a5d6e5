"""Vary one thing at a time, and see whether the cost of an event stays: distinct cells, partitions, full profiles.

How it grows with the number of events is told by the case `memory`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from bench.backlogs import filled
from bench.case import Case, Figure
from bench.progress import CPU_UNIT
from bench.workers import WITHOUT_PROFILES, count_backlog
from bench.workloads import MANY, Workload
from load.events import Mix

EVENTS = 1_000_000
GOAL_FLAT = 1.22
"""Within 10 % of the middle on both sides: 1.1 / 0.9."""
CELLS = (2, 100, 10_000, 1_000_000)
PARTITIONS = (1, 4, 100)
NEW_USERS, FULL_USERS = 1_000_000_000, 200
"""Everybody is new; or few enough that each has 250 of both actions when the measuring begins."""
EVEN = 0.5


def measure(varied: Mapping[str, Workload], *, profiles: bool) -> Iterable[Figure]:
    """Measure each workload once, and how far the dearest is from the cheapest."""
    costs = []
    for name, workload in varied.items():
        with filled(workload) as backlog:
            costs.append(count_backlog(backlog, settings=None if profiles else WITHOUT_PROFILES).cpu_us)
        yield Figure(f"{name}, CPU", costs[-1], CPU_UNIT)
    yield Figure("dearest over cheapest", max(costs) / min(costs), "ratio", GOAL_FLAT)


def _measure_cells() -> Iterable[Figure]:
    base = MANY.sized(EVENTS)
    return measure({f"{cells:,} cells": replace(base, name=f"cells-{cells}", cells=cells) for cells in CELLS}, profiles=False)


def _measure_partitions() -> Iterable[Figure]:
    base = MANY.sized(EVENTS)
    varied = {f"{count} partitions": replace(base, name=f"partitions-{count}", partitions=count) for count in PARTITIONS}
    return measure(varied, profiles=True)


def _measure_profiles() -> Iterable[Figure]:
    base = MANY.sized(EVENTS)
    users = {"empty": NEW_USERS, "full": FULL_USERS}
    mixes = {name: Mix(cookies=count, hot_cookie_share=0.0, buy_share=EVEN) for name, count in users.items()}
    varied = {f"{name} profiles": replace(base, name=f"profiles-{name}", mix=mix) for name, mix in mixes.items()}
    return measure(varied, profiles=True)


def _case(what: str, title: str, measure_once: Callable[[], Iterable[Figure]]) -> Case:
    return Case(f"growth_{what}", title, measure_once)


CASES = (
    _case("cells", "aggregates alone, 2 to 1,000,000 distinct cells", _measure_cells),
    _case("partitions", "aggregates and profiles, 1 to 100 partitions", _measure_partitions),
    _case("profiles", "aggregates and profiles, users with none and with 200 + 200 events", _measure_profiles),
)
