"""Count ten million events in one worker: memory must stay flat, and the last million cost what the first did."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from bench.backlogs import filled
from bench.case import Case, Figure
from bench.console import tell
from bench.processes import cpu_s, peak_rss_mib, rss_mib
from bench.progress import CPU_UNIT, MEMORY_UNIT, wait_for
from bench.workers import check, counted_by, pids_of, running_workers
from bench.workloads import MANY

EVENTS = 10_000_000
SAMPLES = 10
GOAL_MIB = 500.0
GOAL_FLAT = 1.1
"""The last half of the samples against the first half, whose caches fill."""
GOAL_COST_FLAT = 1.22
"""Within 10 % of the middle on both sides: 1.1 / 0.9."""
WARM_EVENTS_PART = 0.01


@dataclass(frozen=True)
class Sample:
    """What a worker had used when it had counted so many events."""

    events: int
    cpu_s: float
    rss_mib: float


def measure() -> Iterable[Figure]:
    """Measure memory and cost along the way."""
    workload = MANY.sized(EVENTS)
    with filled(workload) as backlog, running_workers(backlog) as workers:
        pids = pids_of(workers)
        samples = []
        for wanted in _marks(workload.events):
            done = wait_for(pids, lambda: counted_by(workers), wanted)
            samples.append(Sample(done, cpu_s(pids[0]), rss_mib(pids[0])))
            tell(f"  {done:,} events: {samples[-1].rss_mib:.0f} MiB")
        check(backlog, workers[0])
        return figures_of(samples, peak_rss_mib(pids[0]))


def figures_of(samples: list[Sample], peak_mib: float) -> list[Figure]:
    """Return what the samples say; the first of them is only the warm start."""
    later = samples[1:]
    costs = [(after.cpu_s - before.cpu_s) / max(1, after.events - before.events) * 1e6 for before, after in pairwise(samples)]
    half = len(later) // 2
    first, last = max(sample.rss_mib for sample in later[:half]), max(sample.rss_mib for sample in later[half:])
    return [
        Figure("memory at the end", later[-1].rss_mib, MEMORY_UNIT, GOAL_MIB),
        Figure("peak memory", peak_mib, MEMORY_UNIT, GOAL_MIB),
        Figure("memory, second half over first", last / first, "ratio", GOAL_FLAT),
        *(Figure(f"memory at {number}/{len(later)}", sample.rss_mib, MEMORY_UNIT) for number, sample in enumerate(later, 1)),
        Figure("CPU, first tenth", costs[0], CPU_UNIT),
        Figure("CPU, last tenth", costs[-1], CPU_UNIT),
        Figure("CPU, dearest tenth over cheapest", max(costs) / min(costs), "ratio", GOAL_COST_FLAT),
    ]


def _marks(events: int) -> list[int]:
    return [int(events * WARM_EVENTS_PART), *(events * number // SAMPLES for number in range(1, SAMPLES + 1))]


CASE = Case("memory", "aggregates and profiles of 10,000,000 events: memory, and cost as they grow", measure)
