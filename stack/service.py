"""What Kafka and Postgres of the local stack have in common: prepare, command, ready; and to run them without a manager."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

from stack.errors import ServiceNotReadyError, StackError
from stack.progress import Say, say_nothing
from streams.clock import SYSTEM_CLOCK

FREE_BYTES_MIN = 512 * 1024 * 1024
READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
POLL_INTERVAL_S = 0.05
START_TRIES = 5  # What a kill -9 left behind (a socket, shared memory) may take a moment to go.
TRY_PAUSE_S = 0.3
LOG_LINES_SHOWN = 5
LOG_TAIL_BYTES = 8192

PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class LocalService(ABC):
    """A server for this machine alone, with its data in a folder.

    A process manager uses `prepare`, `command`, `user`, `directory` and `wait_ready`; tests use `start`, `stop`, `kill`.
    """

    name: str
    stop_signal: signal.Signals = signal.SIGTERM

    def __init__(self, home: Path, *, say: Say = say_nothing) -> None:
        self.home = Path(home).absolute()
        self.say = say
        self.log_file = self.home / f"{self.name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def user(self) -> str | None:
        """Name of the user that must run the command; None: whoever runs us."""
        return None

    @property
    def directory(self) -> Path:
        """Folder to run the command in."""
        return self.home

    @abstractmethod
    def prepare(self) -> None:
        """Make everything that `command` needs; a second call changes nothing, but for a port that was taken.

        Raises:
            StackError: one line that says what is wrong and what to do.
        """

    @abstractmethod
    def command(self) -> list[str]:
        """Return the command that runs the server in the foreground; valid after `prepare`."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Return whether the server answers now."""

    def remove(self) -> None:
        """Remove all data of the stopped server."""
        shutil.rmtree(self.home, ignore_errors=True)

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Return as soon as the server answers.

        Raises:
            ServiceNotReadyError: it did not within *timeout_s*, or its process, if `start` made one, ended.
        """
        deadline_s = SYSTEM_CLOCK.monotonic_s() + timeout_s
        while not self.is_ready():
            if self._process is not None and self._process.poll() is not None:
                raise ServiceNotReadyError(f"{self.name} ended while it started: {self._log_tail()}")
            if SYSTEM_CLOCK.monotonic_s() > deadline_s:
                raise ServiceNotReadyError(f"{self.name} not ready after {timeout_s:.0f} s: {self._log_tail()}")
            time.sleep(POLL_INTERVAL_S)

    def start(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Prepare and run the server as a child of this process, which takes it along when it dies.

        Raises:
            StackError: it cannot be prepared or does not become ready.
        """
        self.prepare()
        for attempt in range(1, START_TRIES + 1):
            self._spawn()
            try:
                self.wait_ready(timeout_s)
            except ServiceNotReadyError:
                ended = not self.is_running()
                self.kill()
                if not ended or attempt == START_TRIES:
                    raise
                time.sleep(TRY_PAUSE_S)
            else:
                return

    def is_running(self) -> bool:
        """Return whether the process that `start` made lives."""
        return self._process is not None and self._process.poll() is None

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """End the server in order; kill it when that takes longer than *timeout_s*."""
        if self._process is None:
            return
        self._process.send_signal(self.stop_signal)
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None

    def kill(self) -> None:
        """End the server as a power cut would: no signal handler runs."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        self._process = None

    def _spawn(self) -> None:
        owner = {} if self.user is None else {"user": self.user, "group": _group_of(self.user), "extra_groups": []}
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(  # type: ignore[call-overload]
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                start_new_session=True,  # Ctrl-C is for us, who stop it in order.
                preexec_fn=die_with_parent(signal.SIGKILL),  # noqa: PLW1509 - one C call, safe after a fork
                **owner,
            )

    def _log_tail(self) -> str:
        lines = last_lines(self.log_file)
        return f"{' | '.join(lines) or 'it wrote nothing'} (log: {self.log_file})"


def die_with_parent(number: signal.Signals) -> Callable[[], None]:
    """Return what a child calls before exec to get signal *number* when its parent dies, however that dies."""

    def ask_kernel() -> None:
        _libc.prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0)

    return ask_kernel


def last_lines(path: Path, count: int = LOG_LINES_SHOWN, *, start: int = 0) -> list[str]:
    """Return the last *count* lines of *path* behind byte *start* that say anything; none when it cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(max(start, file.seek(0, os.SEEK_END) - LOG_TAIL_BYTES))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return []
    return [line.rstrip() for line in text.splitlines() if line.strip()][-count:]


def check_space(folder: Path, *, bytes_min: int = FREE_BYTES_MIN) -> None:
    """Refuse to start on a disk that is about to be full.

    Raises:
        StackError: less than *bytes_min* are free where *folder* is.
    """
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < bytes_min:
        raise StackError(
            f"the disk of {folder} is full: {free_bytes >> 20} MiB free, {bytes_min >> 20} MiB needed;"
            " free some, or set TALLY_STACK_HOME to a folder on another disk"
        )


def _group_of(user: str) -> int:
    import pwd  # noqa: PLC0415 - only as root

    return pwd.getpwnam(user).pw_gid
