"""What supervisord is told."""

from __future__ import annotations

import shlex
import signal
import xmlrpc.client
from pathlib import Path
from typing import Any

from supervisor.options import UnhosedConfigParser
from supervisor.xmlrpc import Faults

from stack.home import StackHome
from stack.manager import Manager, ProcessState, Program, render_config

HOME = StackHome(Path("/srv/50% full/tally"))
PROGRAM = Program(
    "worker-0",
    ["/a b/python", "-m", "faust", "%(here)s"],
    Path("/a b"),
    environment={"TALLY_WORKER_INDEX": "0"},
    stop_signal=signal.SIGINT,
    priority=400,
)


def section(name: str) -> dict[str, str]:
    parser = UnhosedConfigParser()
    parser.read_string(render_config(HOME, [PROGRAM]))
    parser.expansions = {"here": "WRONG"}
    return {key: parser.saneget(name, key) for key, _ in parser.items(name)}


def test_command_survives_spaces_and_percent_signs() -> None:
    """Paths of checkouts have both, and supervisor expands %(names)s."""
    assert shlex.split(section("program:worker-0")["command"]) == list(PROGRAM.command)
    assert section("supervisord")["logfile"] == "/srv/50% full/tally/log/supervisord.log"


def test_process_that_ends_is_started_again_without_end() -> None:
    """Killing any process loses nothing only if it comes back."""
    rendered = section("program:worker-0")
    assert rendered["autorestart"] == "true"
    assert int(rendered["startretries"]) >= 1_000_000


def test_nothing_starts_before_its_turn() -> None:
    """A worker that starts before its topics exist would have Faust create them otherwise."""
    assert section("program:worker-0")["autostart"] == "false"


def test_process_may_finish_its_batch_before_it_is_killed() -> None:
    """Drain is under 10 s; 30 leave room."""
    rendered = section("program:worker-0")
    assert (rendered["stopsignal"], rendered["stopwaitsecs"]) == ("INT", "30")


def test_only_the_owner_may_ask_the_manager() -> None:
    """Who can write to its socket can start and stop everything."""
    assert section("unix_http_server")["chmod"] == "0600"


def test_process_on_its_way_back_does_not_count_as_stopped() -> None:
    """Else the stop order would pass over it and it would come up behind."""
    assert not ProcessState(0, "BACKOFF", 1).is_stopped
    assert not ProcessState(0, "EXITED", 70).is_stopped
    assert ProcessState(0, "STOPPED", 0).is_stopped


class Between(Manager):
    """A manager whose supervisord has one program, which ends just when it is to be stopped."""

    def __init__(self) -> None:
        super().__init__(HOME)
        self.lives = ["EXITED", "STARTING"]
        self.refused = 0

    def _ask(self, method: str, *arguments: object) -> Any:
        if method == "getAllProcessInfo":
            return [{"name": "ends", "pid": 0, "statename": self.lives[0], "exitstatus": 70}]
        assert (method, *arguments) == ("stopProcess", "ends", False)
        if self.lives[0] == "EXITED":
            self.refused += 1
            self.lives.pop(0)
            raise xmlrpc.client.Fault(Faults.NOT_RUNNING, "NOT_RUNNING: ends")
        self.lives[0] = "STOPPED"
        return True


def test_process_between_two_lives_is_stopped_in_its_next_one() -> None:
    """B3: a worker at the limit of dead letters keeps ending; supervisord refuses to stop what does not run."""
    manager = Between()
    manager.stop_processes(["ends"])
    assert (manager.refused, manager.lives) == (1, ["STOPPED"])
