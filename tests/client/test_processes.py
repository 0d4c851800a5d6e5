"""Real processes: forks, kills, exits, and many threads, each against a collector in this one."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.client.recording import Recorder
from tests.tidy.tree import ROOT

PROGRAMS = Path(__file__).parent / "programs"
ENDS_S = 2.0


@pytest.fixture
def live() -> Iterator[Recorder]:
    """A collector by the machine's own clock."""
    with Recorder() as recorder:
        yield recorder


def started(program: str, *arguments: object) -> subprocess.Popen[str]:
    """Start a program of ours; it says things as one JSON document a line."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "client"), "PYTHONWARNINGS": "ignore::DeprecationWarning"}
    module = [program] if program == "-m" else [str(PROGRAMS / f"{program}.py")]
    command = [sys.executable, *module, *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )


def said(process: subprocess.Popen[str]) -> list[Any]:
    """Wait for a program's end, and return all that it and its children have said."""
    try:
        out, errors = process.communicate(timeout=60)
    finally:  # A child that hangs would outlive the test.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert (process.returncode, errors) == (0, "")
    return [json.loads(line) for line in out.splitlines()]


def test_parent_and_child_each_send_their_own(live: Recorder) -> None:
    """A fork in the middle of sending: none lost, none twice, no hang. Children of `multiprocessing` need not flush."""
    lines = said(started("forking", live.url))
    ids = [event_id for line in lines for event_id in line["ids"]]
    assert Counter(line["who"] for line in lines) == {"parent": 1, "child": 3, "grandchild": 1, "multiprocessing": 2}
    assert len(ids) == len(set(ids)) == 7 * 200
    assert Counter(event["id"] for event in live.events) == Counter(ids)


def test_spooled_events_survive_a_kill(live: Recorder, tmp_path: Path) -> None:
    """SIGKILL while the collector is down and a batch is under way: the next process sends them all, by the same ids."""
    spool = tmp_path / "spool"
    with live.down():
        first = started("spooling", live.url, spool, "hang")
        assert first.stdout is not None
        ids = json.loads(first.stdout.readline())
        os.kill(first.pid, signal.SIGKILL)
        first.communicate(timeout=10)
    assert len(ids) == 300
    said(started("spooling", live.url, spool, "flush"))
    assert Counter(event["id"] for event in live.events) == Counter(ids)


def test_two_processes_on_one_spool_send_each_event_once(live: Recorder, tmp_path: Path) -> None:
    """Both begin at once, on what a third has left."""
    spool = tmp_path / "spool"
    with live.down():
        (ids,) = said(started("spooling", live.url, spool, "leave"))
    both = [started("spooling", live.url, spool, "flush") for _ in range(2)]
    for process in both:
        said(process)
    assert Counter(event["id"] for event in live.events) == Counter(ids)


@pytest.mark.parametrize("program", ["exiting", "looping"])
def test_an_exit_takes_two_seconds_and_spools_the_rest(program: str, live: Recorder, tmp_path: Path) -> None:
    """With a thread and with a loop. The collector takes connections and never answers; nobody calls `close`."""
    spool = tmp_path / "spool"
    live.gate.clear()
    last_line_s, ended_s, ids = ended(started(program, live.url, spool))
    assert ended_s - last_line_s <= ENDS_S
    with sqlite3.connect(spool) as connection:
        rows = [event_id for (event_id,) in connection.execute("SELECT id FROM events WHERE owner IS NULL")]
    connection.close()
    assert sorted(rows) == sorted(ids) and len(ids) == 500


@pytest.mark.parametrize("program", ["exiting", "looping"])
def test_the_end_of_a_child_of_multiprocessing_is_an_exit_too(program: str, live: Recorder, tmp_path: Path) -> None:
    """Such a child does not run what `atexit` knows; with a thread and with a loop, what is left goes to the spool."""
    spool = tmp_path / "spool"
    live.gate.clear()
    (first,) = said(started("multiprocessed", program, live.url, spool))
    with sqlite3.connect(spool) as connection:
        rows = [event_id for (event_id,) in connection.execute("SELECT id FROM events WHERE owner IS NULL")]
    connection.close()
    assert sorted(rows) == sorted(first["ids"]) and len(rows) == 500


def test_an_exit_without_a_spool_tells_what_is_lost(live: Recorder) -> None:
    """Bounded by the same two seconds."""
    live.gate.clear()
    last_line_s, ended_s, ids = ended(started("exiting", live.url))
    assert ended_s - last_line_s <= ENDS_S
    assert len(ids) == 500


def ended(process: subprocess.Popen[str]) -> tuple[float, float, list[str]]:
    """Return when a program's last line ran, when it had ended, and the ids it captured and (without a spool) told as lost."""
    out, errors = process.communicate(timeout=60)
    ended_s = time.time()
    assert process.returncode == 0
    first, *lost = [json.loads(line) for line in out.splitlines()]
    assert first["spooled"] != (errors == "500 events were not sent before the client closed\n")
    assert first["spooled"] or lost == [{"id": event_id, "code": "not_sent"} for event_id in first["ids"]]
    return first["at_s"], ended_s, first["ids"]


def test_ten_threads_lose_nothing_over_a_restart(live: Recorder) -> None:
    """100,000 events, the collector restarted in between: each arrives. How quickly is `bench/cases/client.py`'s to say."""
    process = started("-m", "bench.client_load", live.url)
    wait_until(lambda: len(live.seen) > 100)
    with live.down():
        pass
    (result,) = said(process)
    assert result["stats"] == {"accepted": 100_000, "delivered": 100_000, "failed": {}, "waiting": 0}
    arrived = Counter(event["id"] for event in live.events)
    assert len(arrived) == 100_000
    assert arrived.total() - 100_000 <= 100, "only the batch that was under way may come twice"


def wait_until(condition: Any) -> None:
    until_s = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until_s, "it did not happen"
        time.sleep(0.002)
