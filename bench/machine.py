"""Say on what and when a figure was measured: a number without its machine means nothing."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stack.processes import ROOT
from streams.clock import SYSTEM_CLOCK

KAFKA_ARTIFACT = "org.apache.kafka:kafka_2.13:"


def now() -> datetime:
    """Return the time, UTC."""
    return datetime.fromtimestamp(SYSTEM_CLOCK.now_ms() / 1000, UTC)


def load() -> float:
    """Return the load average of the last minute: above 0.5, somebody else uses the cores too."""
    return os.getloadavg()[0]


def facts() -> dict[str, Any]:
    """Return what a reader needs to compare: cores, processor, memory, versions, commit and time."""
    return {
        "measured_at": now().isoformat(timespec="seconds"),
        "commit": _commit(),
        "cores": os.cpu_count(),
        "processor": _processor(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "kafka": _kafka(),
    }


def told(measured: Sequence[Mapping[str, Any]]) -> str:
    """Return in a line on what and when figures were measured, by the `facts` of each; what differs is told one after another.

    >>> one = {"measured_at": "2026-01-02T03:04:05+00:00", "commit": "a", "cores": 2, "processor": "P"}
    >>> told([{**one, "python": "C", "kafka": "4"}, {**one, "python": "C", "kafka": "4", "commit": "b"}])
    '2026-01-02, commit a, b; 2 cores (P), C, Kafka 4 on the same machine'
    """

    def each(word: Callable[[Mapping[str, Any]], str]) -> str:
        return ", ".join(dict.fromkeys(map(word, measured)))

    days, commits = each(lambda facts: facts["measured_at"][:10]), each(lambda facts: facts["commit"])
    cores = each(lambda facts: f"{facts['cores']} cores ({facts['processor']})")
    python, kafka = each(lambda facts: facts["python"]), each(lambda facts: facts["kafka"])
    return f"{days}, commit {commits}; {cores}, {python}, Kafka {kafka} on the same machine"


def _commit() -> str:
    """Return the commit, with a + where files differ from it; empty outside a clone."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--exclude=*"], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return described.stdout.strip()


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _kafka() -> str:
    coordinates = (ROOT / "stack" / "kafka-coordinates.txt").read_text(encoding="utf-8").split()
    return next((line.removeprefix(KAFKA_ARTIFACT) for line in coordinates if line.startswith(KAFKA_ARTIFACT)), "")
