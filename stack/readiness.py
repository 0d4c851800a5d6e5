"""Wait until every process answers 200 at `/ready`, and say meanwhile what is waited for."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from stack.errors import ServiceNotReadyError
from stack.home import StackHome
from stack.manager import Manager, ProcessState
from stack.processes import AppProcess
from stack.progress import Say
from stack.service import last_lines
from streams.clock import SYSTEM_CLOCK

POLL_INTERVAL_S = 0.2
TELL_INTERVAL_S = 5.0
ANSWER_TIMEOUT_S = 2.0
ANSWER_BYTES_MAX = 4096
REASON_CHARACTERS_MAX = 120
ENDS_MAX = 3  # A process that ended this often while it started has a fault that waiting does not heal.


class Readiness:
    """Follow processes from their start until all of them are ready."""

    def __init__(self, home: StackHome, manager: Manager, *, say: Say) -> None:
        self._home = home
        self._manager = manager
        self._say = say
        self._pids: dict[str, set[int]] = {}
        self._log_starts: dict[str, int] = {}

    def wait(self, processes: Sequence[AppProcess], timeout_s: float) -> None:
        """Return when all *processes* are ready.

        Raises:
            ServiceNotReadyError: one is not within *timeout_s*, or ends again and again; names it and its log.
        """
        self._log_starts = {process.program.name: _size_of(self._log_of(process.program.name)) for process in processes}
        started_s = told_s = SYSTEM_CLOCK.monotonic_s()
        waiting = {process.program.name: process for process in processes}
        reasons: dict[str, str] = {}
        while waiting:
            reasons = {name: not_ready_reason(process.address.url) for name, process in waiting.items()}
            for name in [name for name, reason in reasons.items() if not reason]:
                del waiting[name], reasons[name]
                self._say(f"{name} is ready")
            self._check_ends(reasons)
            now_s = SYSTEM_CLOCK.monotonic_s()
            if waiting and now_s - started_s > timeout_s:
                name = next(iter(reasons))
                raise ServiceNotReadyError(f"{name} not ready after {timeout_s:.0f} s ({reasons[name]}); {self._tail_of(name)}")
            if waiting and now_s - told_s > TELL_INTERVAL_S:
                told_s = now_s
                self._say("waiting for " + ", ".join(f"{name} ({reason})" for name, reason in reasons.items()))
            if waiting:
                time.sleep(POLL_INTERVAL_S)

    def _check_ends(self, names: Sequence[str] | dict[str, str]) -> None:
        states = self._manager.states()
        for name in names:
            pids = self._pids.setdefault(name, set())
            if states[name].pid:
                pids.add(states[name].pid)
            if len(pids) > ENDS_MAX:
                raise ServiceNotReadyError(f"{name} ended {len(pids) - 1} times while it started; {self._tail_of(name)}")

    def _log_of(self, name: str) -> Path:
        return self._home.log / f"{name}.log"

    def _tail_of(self, name: str) -> str:
        path = self._log_of(name)
        lines = last_lines(path, start=self._log_starts[name])  # not what an earlier run has written
        return f"log: {path}" + "".join(f"\n    {line}" for line in lines)


def not_ready_reason(url: str) -> str:
    """Return why the process at *url* is not ready, in a few words; empty when it is."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=ANSWER_TIMEOUT_S)
    try:
        connection.request("GET", "/ready")
        answer = connection.getresponse()
        body = answer.read(ANSWER_BYTES_MAX)
    except (OSError, http.client.HTTPException):
        return "does not answer yet"
    finally:
        connection.close()
    return "" if answer.status == http.client.OK else _reason_in(body)


def _size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def describe_end(name: str, before: ProcessState, after: ProcessState) -> str:
    """Return one line about a process that is not the one it was, empty when it is.

    >>> describe_end("sinks", ProcessState(11, "RUNNING", 0), ProcessState(12, "RUNNING", 0))
    'sinks ended and was started again'
    >>> describe_end("sinks", ProcessState(11, "RUNNING", 0), ProcessState(0, "BACKOFF", 1))
    'sinks ended and is being started again'
    """
    if before.pid == after.pid or not before.pid:
        return ""
    return f"{name} ended and {'was' if after.pid else 'is being'} started again"


def _reason_in(body: bytes) -> str:
    try:
        reason = json.loads(body)
    except ValueError:
        return "not ready"
    if isinstance(reason, dict):
        reason = reason.get("reason") or reason.get("reasons") or reason.get("error") or reason
    if isinstance(reason, list):
        reason = "; ".join(map(str, reason))
    return str(reason)[:REASON_CHARACTERS_MAX]
