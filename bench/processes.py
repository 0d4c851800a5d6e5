"""Ask the kernel what processes have used: CPU time of all threads, and memory. Linux only, as all of /proc."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
KIB_PER_MIB = 1024


def cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process so far: user and system, all threads, ended ones too; steps of 10 ms.

    Raises:
        OSError: there is no such process.
    """
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def rss_mib(pid: int) -> float:
    """Return the resident memory of a process now, MiB."""
    return _status_mib(pid, "VmRSS")


def peak_rss_mib(pid: int) -> float:
    """Return the most resident memory that a process ever had, MiB."""
    return _status_mib(pid, "VmHWM")


def tree_of(pid: int) -> list[int]:
    """Return a process and all that descend from it and live; nothing where it has ended."""
    found: list[int] = []
    waiting = [pid]
    while waiting:
        parent = waiting.pop()
        try:
            tasks = list(Path(f"/proc/{parent}/task").iterdir())
            children = [child for task in tasks for child in _children(task)]
        except OSError:
            continue
        found.append(parent)
        waiting.extend(children)
    return found


def tree_cpu_s(pids: Iterable[int]) -> float:
    """Return the CPU seconds of processes and their living descendants; what a descendant that ended used is lost."""
    return sum(cpu_s(member) for pid in pids for member in tree_of(pid))


def tree_rss_mib(pids: Iterable[int]) -> float:
    """Return the resident memory of processes and their descendants, MiB; pages that they share count more than once."""
    return sum(rss_mib(member) for pid in pids for member in tree_of(pid))


def tree_peak_rss_mib(pids: Iterable[int]) -> float:
    """Return the sum of the peaks of processes and their descendants, MiB: at least what they had at one time."""
    return sum(peak_rss_mib(member) for pid in pids for member in tree_of(pid))


def _children(task: Path) -> list[int]:
    try:
        return [int(child) for child in (task / "children").read_text(encoding="ascii").split()]
    except OSError:  # the thread ended meanwhile
        return []


def _status_mib(pid: int, field: str) -> float:
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    return int(status.split(f"{field}:", 1)[1].split()[0]) / KIB_PER_MIB
