"""Kill a worker that has counted a million events, and see how long it takes to be ready again: with its disk and without."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from datetime import datetime

from bench.backlogs import Backlog, filled
from bench.case import Case, Figure
from bench.processes import cpu_s
from bench.progress import RATE_UNIT, BenchError, wait_for
from bench.workers import check, counted_by, pids_of, running_workers
from bench.workloads import MANY
from streams.clock import SYSTEM_CLOCK
from tests.support.worker import WorkerProcess

EVENTS = 1_000_000
GOAL_EVENTS_PER_S = 1_000_000.0
TIME_OF_LINE = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}Z")
"""As streams/logs.py begins a line of text."""
RESTORE_BEGINS = "Restoring state from changelog topics"
RESTORE_ENDS = "Worker ready"
"""Not before: what was restored is brought to the disk, and its databases are opened as they are used, after the last read."""


def measure() -> Iterable[Figure]:
    """Measure both ways back; after each of them the answers are checked."""
    workload = MANY.sized(EVENTS)
    with filled(workload) as backlog, running_workers(backlog) as workers:
        worker = workers[0]
        wait_for(pids_of(workers), lambda: counted_by(workers), workload.events)
        check(backlog, worker)
        warm = _return(backlog, worker, wipe=False)
        wiped = _return(backlog, worker, wipe=True)
        restoring_s = restoring_seconds(worker.log())
    return [
        Figure("wiped disk, state restored", workload.events / restoring_s, RATE_UNIT, GOAL_EVENTS_PER_S, more_is_better=True),
        Figure("wiped disk, restoring", restoring_s, "s"),
        Figure("wiped disk, start to ready", wiped[0], "s"),
        Figure("wiped disk, CPU to ready", wiped[1], "s CPU"),
        Figure("kill -9, start to ready", warm[0], "s"),
        Figure("kill -9, CPU to ready", warm[1], "s CPU"),
    ]


def _return(backlog: Backlog, worker: WorkerProcess, *, wipe: bool) -> tuple[float, float]:
    """Kill a worker and start it again; return seconds and CPU seconds from the start of its process until it is ready."""
    worker.kill()
    if wipe:
        shutil.rmtree(worker.home / f"worker-{worker.index}")
    worker.log_path.unlink()
    started_s = SYSTEM_CLOCK.monotonic_s()
    worker.start()
    ready_s, used_s = SYSTEM_CLOCK.monotonic_s() - started_s, cpu_s(pids_of([worker])[0])
    check(backlog, worker)
    return ready_s, used_s


def restoring_seconds(log: str) -> float:
    """Return how long it took from the first read of a changelog until the worker was ready, from its log.

    Raises:
        BenchError: it says nothing of it.
    """
    begins = _time_of(log, RESTORE_BEGINS)
    return max((_time_of(log, RESTORE_ENDS) - begins).total_seconds(), 0.001)


def _time_of(log: str, text: str) -> datetime:
    for line in log.splitlines():
        found = TIME_OF_LINE.search(line)
        if text in line and found:
            return datetime.fromisoformat(found[0])
    raise BenchError(f"the worker's log does not say {text!r}")


CASE = Case("recovery", "a worker back after kill -9, with its disk and without", measure)
