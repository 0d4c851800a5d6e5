"""Look at what processes hold and leave behind: file handles, memory, temporary files."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

from tests.fault.checks import MIB
from tests.fault.evidence import Held
from tests.fault.stage import KAFKA, POSTGRES, Stage

EXPLAINED = ("tally_memtable_bytes", "tally_block_cache_bytes")
TEMPORARY_ENDINGS = (".tmp", ".dbtmp", ".part")
"""Of files that are written beside the one they replace, by us or by RocksDB."""


def look(stage: Stage) -> list[Held]:
    """Return what each process of ours holds, and Kafka's handles, where a leak of our connections shows too."""
    return [held for name in (*stage.process_names(), KAFKA) if (held := look_at(stage, name))]


def look_at(stage: Stage, name: str) -> Held | None:
    """Return what a process holds; None while it does not run."""
    pid = stage.pid(name)
    try:
        handles = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        if name == KAFKA:
            return Held(name, pid, handles, 0)
        explained = sum(stage.metric(name, metric) for metric in EXPLAINED)
        return Held(name, pid, handles, resident_bytes(pid), int(explained))
    except OSError:
        return None


def resident_bytes(pid: int) -> int:
    """Return the resident set of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


def peak_bytes(pid: int) -> int:
    """Return the largest resident set that a process ever had."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def told(before: Held, after: Held) -> str:
    """Return in words what a process holds, and how much more than before."""
    grown, explained = after.resident_bytes - before.resident_bytes, after.explained_bytes - before.explained_bytes
    handles = f"{after.name} holds {after.handles} handles ({after.handles - before.handles:+d})"
    return f"{handles}, {after.resident_bytes / MIB:.0f} MiB ({grown / MIB:+.0f}, of which explained {explained / MIB:+.0f})"


def temporary_files(stage: Stage) -> Iterator[str]:
    """Yield what lies in the folder for temporary files of our processes, and what looks like one anywhere in their home.

    Kafka and Postgres keep their own house.
    """
    services = (stage.home / KAFKA, stage.home / POSTGRES)
    for path in stage.home.rglob("*"):
        if not any(path.is_relative_to(service) for service in services):
            is_ours = stage.temporary in path.parents
            if is_ours or path.name.endswith(TEMPORARY_ENDINGS):
                yield str(path.relative_to(stage.home))
