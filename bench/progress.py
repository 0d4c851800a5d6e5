"""Measure processes while they work something off: CPU, wall time and memory, from a warm start to the last event."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.case import Figure
from bench.processes import tree_cpu_s, tree_peak_rss_mib
from streams.clock import SYSTEM_CLOCK

CPU_UNIT = "µs CPU/event"
RATE_UNIT = "events/s"
MEMORY_UNIT = "MiB"
WARM_PART = 0.1
"""What is worked off before the measuring begins."""
MEASURED_PART_MIN = 0.25
"""Less than this part left when the measuring begins would be mostly the end of the work."""
POLL_S = 0.25
"""An answer costs the process that is measured some milliseconds."""
TRUST = 0.9
"""How much of the predicted rest is slept through without asking."""
STALL_S = 120.0


class BenchError(Exception):
    """A run that shows nothing: it went wrong, or its result is wrong."""


@dataclass(frozen=True)
class Worked:
    """What processes needed for a number of events.

    Attributes:
        events: those between the warm start and the end.
        cpu_s: CPU of all threads of all processes for them.
        peak_mib: the most resident memory, of the whole life.
    """

    events: int
    cpu_s: float
    wall_s: float
    peak_mib: float

    @property
    def cpu_us(self) -> float:
        """CPU of one event, µs."""
        return self.cpu_s / self.events * 1e6

    @property
    def events_per_s(self) -> float:
        """Events a second by the wall clock."""
        return self.events / self.wall_s

    def figures(self, *, name: str = "", goal: float | None = None) -> list[Figure]:
        """Return the usual three: cost, rate and memory; *goal* is that of the cost, *name* stands before theirs."""
        before = f"{name}, " if name else ""
        return [
            Figure(f"{before}CPU", self.cpu_us, CPU_UNIT, goal),
            Figure(f"{before}wall", self.events_per_s, RATE_UNIT, more_is_better=True),
            Figure(f"{before}peak memory", self.peak_mib, MEMORY_UNIT),
        ]


def work_off(pids: Sequence[int], counted: Callable[[], int], total: int, *, warm_part: float = WARM_PART) -> Worked:
    """Wait until processes have counted *total* events; return what they, and what they started, used since the warm start.

    Args:
        counted: how many events are done by now; may raise OSError until the process answers.

    Raises:
        BenchError: nothing moved for `STALL_S`, a process ended, or hardly anything was left after the warm start.
    """
    first = wait_for(pids, counted, max(1, int(total * warm_part)))
    started_s, used_s = SYSTEM_CLOCK.monotonic_s(), tree_cpu_s(pids)
    if total - first < total * MEASURED_PART_MIN:
        raise BenchError(f"{first} of {total} events were done when the measuring began: take more events")
    wait_for(pids, counted, total)
    wall_s, cpu_s = SYSTEM_CLOCK.monotonic_s() - started_s, tree_cpu_s(pids) - used_s
    return Worked(total - first, cpu_s, wall_s, tree_peak_rss_mib(pids))


def wait_for(pids: Sequence[int], counted: Callable[[], int], wanted: int) -> int:
    """Return how many events are done, as soon as *wanted* are; asks as seldom as the rate so far allows.

    Raises:
        BenchError: nothing moved for `STALL_S`, or a process ended.
    """
    seen, moved_s = 0, SYSTEM_CLOCK.monotonic_s()
    while True:
        done = _ask(pids, counted)
        now_s = SYSTEM_CLOCK.monotonic_s()
        if done >= wanted:
            return done
        pause_s = POLL_S
        if done > seen:
            if seen:
                pause_s = pause(wanted - done, (done - seen) / (now_s - moved_s))
            seen, moved_s = done, now_s
        elif now_s - moved_s > STALL_S:
            raise BenchError(f"{done} of {wanted} events, and nothing moved for {STALL_S:.0f} s")
        time.sleep(pause_s)


def pause(rest: int, events_per_s: float) -> float:
    """Return for how long nobody need ask, seconds: nearly until the rest is done at this rate.

    >>> pause(1_000_000, 100_000.0), pause(1, 100_000.0)
    (9.0, 0.25)
    """
    return min(max(POLL_S, rest / events_per_s * TRUST), STALL_S / 4)


def _ask(pids: Sequence[int], counted: Callable[[], int]) -> int:
    for pid in pids:
        if not is_running(pid):
            raise BenchError(f"process {pid} ended")
    try:
        return counted()
    except OSError:  # it does not listen yet
        return 0


def is_running(pid: int) -> bool:
    """Say whether a process lives; one that has ended and was not waited for does not."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stat:  # noqa: PTH123 - /proc is no place for paths
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
