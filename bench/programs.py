"""Run one of our programs for a while, with settings of the run's own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.progress import BenchError
from stack.service import die_with_parent, last_lines
from streams.clock import SYSTEM_CLOCK

ROOT = Path(__file__).resolve().parents[1]
POLL_S = 0.1
READY_WITHIN_S = 180.0
STOP_WITHIN_S = 60.0


def environment_with(settings: Mapping[str, str]) -> dict[str, str]:
    """Return our environment with *settings* in place of every setting in it."""
    return {name: value for name, value in os.environ.items() if not name.startswith("TALLY_")} | dict(settings)


@contextmanager
def running(module: str, *arguments: str, settings: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run `python -m module` from the root; end it in order, or by force when that takes too long."""
    with log.open("ab") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            env=environment_with(settings),
            stdout=stream,
            stderr=stream,
            preexec_fn=die_with_parent(signal.SIGTERM),  # noqa: PLW1509 - one C call, safe after a fork
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_ready(process: subprocess.Popen[bytes], log: Path, is_ready: Callable[[], bool]) -> None:
    """Return when the program is ready; an OSError while asking is a no.

    Raises:
        BenchError: it ended, or was not ready in time; with the end of its log.
    """
    deadline_s = SYSTEM_CLOCK.monotonic_s() + READY_WITHIN_S
    while process.poll() is None and SYSTEM_CLOCK.monotonic_s() < deadline_s:
        try:
            if is_ready():
                return
        except OSError:
            pass
        time.sleep(POLL_S)
    raise BenchError(f"{_name_of(process.args)} is not ready: {' | '.join(last_lines(log))}")


def _name_of(command: object) -> str:
    return " ".join(map(str, command)) if isinstance(command, Sequence) else str(command)
