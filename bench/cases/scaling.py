"""Share one backlog among 1, 2 and 4 workers, and see what an event costs over all of them."""

from __future__ import annotations

from collections.abc import Iterable

from bench.backlogs import filled
from bench.case import Case, Figure
from bench.console import tell
from bench.progress import CPU_UNIT, RATE_UNIT, Worked, work_off
from bench.workers import check, counted_by, pids_of, running_workers
from bench.workloads import MANY, Workload

EVENTS = 3_000_000
WORKERS = (1, 2, 4)


def measure() -> Iterable[Figure]:
    """Measure each number of workers; with more than there are cores, the wall clock says nothing, the CPU still does."""
    workload = MANY.sized(EVENTS)
    alone: Worked | None = None
    for count in WORKERS:
        tell(f"  {count} workers")
        worked = _share(workload, count)
        alone = alone or worked
        yield Figure(f"{count} workers, CPU", worked.cpu_us, CPU_UNIT)
        yield Figure(f"{count} workers, efficiency a core", alone.cpu_us / worked.cpu_us, "ratio", more_is_better=True)
        yield Figure(f"{count} workers, wall", worked.events_per_s, RATE_UNIT, more_is_better=True)


def _share(workload: Workload, count: int) -> Worked:
    """Start all workers at once; the measuring begins when all are ready, so that no rebalance is in it."""
    with filled(workload) as backlog, running_workers(backlog, count=count) as workers:
        for worker in workers:
            worker.wait_ready()
        worked = work_off(pids_of(workers), lambda: counted_by(workers), workload.events)
        check(backlog, workers[0])
    return worked


CASE = Case("scaling", "aggregates and profiles in 1, 2 and 4 workers", measure)
