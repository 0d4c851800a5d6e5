"""What the kernel and the logs are asked for, and how seldom a worker is asked."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from bench.__main__ import chosen
from bench.case import Case, Figure
from bench.cases import all_cases
from bench.cases.memory import Sample, figures_of
from bench.cases.recovery import restoring_seconds
from bench.processes import cpu_s, peak_rss_mib, rss_mib, tree_cpu_s, tree_of
from bench.progress import BenchError, Worked, is_running, wait_for, work_off
from tests.support.eventually import eventually

NOBODY = 2**22 + 1
"""No process has this id: it is above the greatest that Linux gives."""


@contextmanager
def a_child(code: str) -> Iterator[int]:
    """Run Python code as a child that ends with its standard input."""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as process:
        yield process.pid


def test_memory_and_cpu_of_this_process_are_told() -> None:
    """The kernel's fields move from release to release of nobody's code, so a wrong column would go unseen."""
    assert 0 < rss_mib(os.getpid()) <= peak_rss_mib(os.getpid()) < 100_000
    assert cpu_s(os.getpid()) == pytest.approx(sum(os.times()[:2]), abs=0.5)


def test_tree_has_children_and_theirs() -> None:
    """A peer may start its work in a process of its own."""
    child = f"import subprocess, sys; subprocess.run([{sys.executable!r}, '-c', 'input()'], stdin=sys.stdin)"
    with a_child(child) as pid:
        eventually(lambda: len(tree_of(pid)) == 2, what="child and grandchild")
        assert tree_of(pid)[0] == pid
        assert tree_cpu_s([pid]) > 0


def test_ended_process_is_not_running() -> None:
    """Also while nobody has waited for it: a zombie would be waited on for minutes."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    eventually(lambda: not is_running(process.pid), what="the end of the process")
    process.wait()
    assert is_running(os.getpid())
    assert not is_running(NOBODY)


def answers(*counts: int | OSError) -> Callable[[], int]:
    left = iter(counts)

    def counted() -> int:
        count = next(left)
        if isinstance(count, OSError):
            raise count
        return count

    return counted


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)


@pytest.mark.usefixtures("no_pause")
def test_measuring_begins_after_the_warm_up() -> None:
    """What comes before is imports, joining a group and empty caches."""
    worked = work_off([os.getpid()], answers(OSError("not yet"), 0, 5, 12, 60, 100), 100)
    assert worked.events == 88


@pytest.mark.usefixtures("no_pause")
def test_backlog_that_is_too_small_shows_nothing() -> None:
    """Half a second of work and a quarter of a second of polling make no figure."""
    with pytest.raises(BenchError, match="take more events"):
        work_off([os.getpid()], answers(0, 90), 100)


def test_process_that_ended_is_not_waited_for() -> None:
    """Its log says why; waiting says nothing."""
    with pytest.raises(BenchError, match="ended"):
        wait_for([NOBODY], lambda: 0, 1)


def test_work_is_told_by_event() -> None:
    """2 s of CPU for a million events are 2 µs each."""
    worked = Worked(events=1_000_000, cpu_s=2.0, wall_s=4.0, peak_mib=100.0)
    assert [(figure.name, figure.value, figure.goal) for figure in worked.figures(name="x", goal=3.0)] == [
        ("x, CPU", 2.0, 3.0),
        ("x, wall", 250_000.0, None),
        ("x, peak memory", 100.0, None),
    ]


def test_growing_memory_and_cost_are_seen() -> None:
    """A leak of a tenth a million, and a last tenth that costs three times the first."""
    samples = [Sample(0, 0.0, 50.0), *(Sample(number * 100, float(number), 100.0 * number) for number in range(1, 4))]
    samples.append(Sample(400, 6.0, 400.0))
    told = {figure.name: figure.value for figure in figures_of(samples, 450.0)}
    assert told["memory at the end"] == 400.0
    assert told["peak memory"] == 450.0
    assert told["memory, second half over first"] == 2.0
    assert told["CPU, first tenth"] == 10_000.0
    assert told["CPU, dearest tenth over cheapest"] == 3.0


def test_time_of_restoring_is_read_from_the_log() -> None:
    """Start to ready holds imports and the group's protocol; the rate of the goal is that of everything after these."""
    log = """\
2026-11-23 04:00:00.100Z INFO faust.tables.recovery: [^---Recovery]: Restoring state from changelog topics...
2026-11-23 04:00:01.200Z INFO faust.tables.recovery: [^---Recovery]: Done reading from changelog topics
2026-11-23 04:00:01.350Z INFO faust.tables.recovery: [^---Recovery]: Worker ready
"""
    assert restoring_seconds(log) == 1.25
    with pytest.raises(BenchError, match="does not say"):
        restoring_seconds(log.splitlines()[0])


def test_cases_are_found_and_their_names_are_their_own() -> None:
    """A new file under cases/ is a new case, without a list to forget."""
    found = all_cases()
    assert {"aggregates", "aggregates_few", "both", "idiomatic", "recovery", "memory", "scaling", "stages"} <= set(found)
    assert all(name == case.name and case.title and case.runs > 0 for name, case in found.items())


def test_peers_run_only_when_asked_for_or_named() -> None:
    """They need other package managers, and minutes."""
    ours, peer = Case("ours", "", no_figures), Case("peer", "", no_figures, is_peer=True)
    assert chosen([ours, peer], [], peers=False) == [ours]
    assert chosen([ours, peer], [], peers=True) == [ours, peer]
    assert chosen([ours, peer], ["pe*"], peers=False) == [peer]


def no_figures() -> list[Figure]:
    return []
