"""Find and stop what a job left behind that was killed: its processes carry a mark in their environment."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from stack.progress import Say
from streams.clock import SYSTEM_CLOCK

MARK = "STACK_RUN_OF"
"""Environment variable of every process of a job; its value is the job's folder. Not TALLY_: it is no setting."""
MANAGER = b"supervisor.supervisord"
MANAGER_TIMEOUT_S = 90.0
TERM_TIMEOUT_S = 15.0
POLL_INTERVAL_S = 0.1


def stop_leftovers(home: Path, *, say: Say) -> None:
    """Stop every process of the job in *home*, the process manager first, and wait until they are gone."""
    pids = processes_of(home)
    if not pids:
        return
    say(f"stopping {len(pids)} processes in {home} that nobody watches over any more")
    managers = [pid for pid in pids if MANAGER in _read(pid, "cmdline")]
    _send(managers, signal.SIGTERM)
    if managers:
        _wait(home, MANAGER_TIMEOUT_S)
    _send(processes_of(home), signal.SIGTERM)
    _wait(home, TERM_TIMEOUT_S)
    _send(processes_of(home), signal.SIGKILL)
    _wait(home, TERM_TIMEOUT_S)


def processes_of(home: Path) -> list[int]:
    """Return the pids of living processes that belong to the job in *home*."""
    mark = os.fsencode(f"{MARK}={home}")
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in pids if pid != os.getpid() and mark in _read(pid, "environ").split(b"\0")]


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()  # a zombie's environment is empty: it does not count
    except OSError:
        return b""


def _send(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _wait(home: Path, timeout_s: float) -> None:
    deadline_s = SYSTEM_CLOCK.monotonic_s() + timeout_s
    while processes_of(home) and SYSTEM_CLOCK.monotonic_s() < deadline_s:
        time.sleep(POLL_INTERVAL_S)
