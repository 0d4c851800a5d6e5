"""What supervisord is told."""

from __future__ import annotations

import shlex
import signal
from pathlib import Path

from supervisor.options import UnhosedConfigParser

from stack.home import StackHome
from stack.manager import ProcessState, Program, render_config

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
    assert ProcessState(0, "EXITED", 0).is_stopped
