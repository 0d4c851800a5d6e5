"""Drive supervisor, the process manager: render its configuration, start it, and ask it over its Unix socket."""

from __future__ import annotations

import http.client
import os
import shlex
import signal
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from supervisor.xmlrpc import SupervisorTransport

from stack.errors import StackError
from stack.home import StackHome
from stack.service import die_with_parent, last_lines
from streams.clock import SYSTEM_CLOCK

START_TIMEOUT_S = 20.0
SHUTDOWN_TIMEOUT_S = 60.0
STOP_WAIT_S = 30
STOP_GRACE_S = 10.0  # supervisor needs a moment to notice that a killed process is gone.
START_RETRIES = 1_000_000  # Never give up: lag grows meanwhile, nothing is lost.
LOG_BYTES_MAX = 20 * 1024 * 1024
LOG_BACKUPS = 3
POLL_INTERVAL_S = 0.1


class ManagerLostError(StackError):
    """supervisord has ended or does not answer."""


@dataclass(frozen=True)
class Program:
    """One process that the manager keeps alive."""

    name: str
    command: Sequence[str]
    directory: Path
    user: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    stop_signal: signal.Signals = signal.SIGTERM
    priority: int = 500
    """The manager, ended by a signal, stops the greatest priority first."""


@dataclass(frozen=True)
class ProcessState:
    """What the manager knows of a process."""

    pid: int
    """0 while it does not run."""
    state: str
    exit_status: int

    @property
    def is_stopped(self) -> bool:
        """Whether it neither runs nor is about to; one that has ended by itself is about to."""
        return self.state in ("STOPPED", "FATAL", "UNKNOWN")


def render_config(home: StackHome, programs: Sequence[Program]) -> str:
    """Return the text of `supervisord.conf` that describes *programs*, none of which starts by itself."""
    sections: dict[str, dict[str, object]] = {
        "supervisord": {
            "nodaemon": "true",
            "silent": "true",
            "logfile": _plain(home.log / "supervisord.log"),
            "logfile_maxbytes": LOG_BYTES_MAX,
            "logfile_backups": 1,
            "pidfile": _plain(home.path / "supervisord.pid"),
            **({"user": "root"} if os.geteuid() == 0 else {}),  # said aloud, or it warns
        },
        "unix_http_server": {"file": _plain(home.manager_socket), "chmod": "0600"},
        "rpcinterface:supervisor": {"supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"},
    }
    for program in programs:
        sections[f"program:{program.name}"] = _section_of(home, program)
    return "\n".join(
        f"[{name}]\n" + "".join(f"{key} = {value}\n" for key, value in section.items()) for name, section in sections.items()
    )


def _section_of(home: StackHome, program: Program) -> dict[str, object]:
    return {
        "command": _plain(shlex.join(program.command)),
        "directory": _plain(program.directory),
        **({"user": program.user} if program.user else {}),
        **({"environment": _variables(program.environment)} if program.environment else {}),
        "priority": program.priority,
        "autostart": "false",
        "autorestart": "true",
        "startsecs": 1,
        "startretries": START_RETRIES,
        "stopsignal": program.stop_signal.name.removeprefix("SIG"),
        "stopwaitsecs": STOP_WAIT_S,
        "stopasgroup": "true",
        "killasgroup": "true",
        "redirect_stderr": "true",
        "stdout_logfile": _plain(home.log / f"{program.name}.log"),
        "stdout_logfile_maxbytes": LOG_BYTES_MAX,
        "stdout_logfile_backups": LOG_BACKUPS,
    }


def _plain(value: object) -> str:
    """Return *value* so that supervisor's expansion of %(names)s leaves it as it is."""
    return str(value).replace("%", "%%")


def _variables(environment: Mapping[str, str]) -> str:
    return ",".join(f'{name}="{_plain(value)}"' for name, value in environment.items())


class Manager:
    """A running supervisord: our child, which dies with us and takes its processes along."""

    def __init__(self, home: StackHome) -> None:
        self._home = home
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, programs: Sequence[Program], environment: Mapping[str, str]) -> None:
        """Run supervisord with *programs*, all of them stopped, and *environment* for them all.

        Raises:
            StackError: it does not start.
        """
        self._home.manager_socket.unlink(missing_ok=True)
        self._home.manager_config.write_text(render_config(self._home, programs), encoding="utf-8")
        with (self._home.log / "supervisord.out").open("wb") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "supervisor.supervisord", "-c", str(self._home.manager_config)],
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for us, who stop everything in order.
                preexec_fn=die_with_parent(signal.SIGTERM),  # noqa: PLW1509 - one C call, safe after a fork
            )
        deadline_s = SYSTEM_CLOCK.monotonic_s() + START_TIMEOUT_S
        while not self._answers():
            if not self.is_alive() or SYSTEM_CLOCK.monotonic_s() > deadline_s:
                lines = last_lines(self._home.log / "supervisord.out", 1) or ["it wrote nothing"]
                raise StackError(f"the process manager does not start: {lines[-1]} (log: {self._home.log})")
            time.sleep(POLL_INTERVAL_S)

    def is_alive(self) -> bool:
        """Return whether supervisord runs."""
        return self._process is not None and self._process.poll() is None

    def start_process(self, name: str) -> None:
        """Start the program *name*, without waiting for it."""
        self._ask("startProcess", name, False)

    def states(self) -> dict[str, ProcessState]:
        """Return the state of every program, by name."""
        return {
            info["name"]: ProcessState(info["pid"], info["statename"], info["exitstatus"])
            for info in self._ask("getAllProcessInfo")
        }

    def stop_processes(self, names: Sequence[str]) -> None:
        """Stop the programs *names* together and wait until they are gone; supervisord kills one that takes too long.

        One that keeps ending is asked again and again: while it is between two lives supervisord cannot stop it.
        """
        deadline_s = SYSTEM_CLOCK.monotonic_s() + STOP_WAIT_S + STOP_GRACE_S
        while SYSTEM_CLOCK.monotonic_s() < deadline_s:
            states = self.states()
            running = [name for name in names if name in states and not states[name].is_stopped]
            if not running:
                return
            for name in running:
                with suppress(xmlrpc.client.Fault):  # it has ended meanwhile, or is being stopped
                    self._ask("stopProcess", name, False)
            time.sleep(POLL_INTERVAL_S)

    def shut_down(self) -> None:
        """End supervisord, and with it what still runs; kill it when that takes too long."""
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            self._process.terminate()
        try:
            self._process.wait(SHUTDOWN_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def _answers(self) -> bool:
        try:
            self._ask("getState")
        except ManagerLostError:
            return False
        return True

    def _ask(self, method: str, *arguments: object) -> Any:
        transport = SupervisorTransport(None, None, f"unix://{self._home.manager_socket}")
        try:
            with xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport) as server:
                return getattr(server.supervisor, method)(*arguments)
        except (OSError, http.client.HTTPException, xmlrpc.client.ProtocolError) as error:
            raise ManagerLostError(f"the process manager does not answer ({error}); logs: {self._home.log}") from error
