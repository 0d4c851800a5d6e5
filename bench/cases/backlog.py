"""Work off a backlog with one worker: aggregates alone with many cells and with few, and aggregates with profiles."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from bench.backlogs import filled
from bench.case import Case, Figure
from bench.workers import WITHOUT_PROFILES, count_backlog
from bench.workloads import FEW, MANY, Workload

GOAL_BOTH_US = 5.0
GOAL_AGGREGATES_US = 2.0
GOAL_FEW_US = 1.5


def measure(workload: Workload, *, profiles: bool, goal_us: float) -> Iterable[Figure]:
    """Measure one worker on one backlog."""
    with filled(workload) as backlog:
        return count_backlog(backlog, settings=None if profiles else WITHOUT_PROFILES).figures(goal=goal_us)


CASES = (
    Case(
        "aggregates",
        "aggregates alone, the spec's cardinality",
        partial(measure, MANY, profiles=False, goal_us=GOAL_AGGREGATES_US),
    ),
    Case("aggregates_few", "aggregates alone, 2 distinct cells", partial(measure, FEW, profiles=False, goal_us=GOAL_FEW_US)),
    Case("both", "aggregates and profiles", partial(measure, MANY, profiles=True, goal_us=GOAL_BOTH_US)),
)
