"""Run a peer on a backlog, ask it how far it is, and compare its totals with what was sent; by files, the same for all."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.backlogs import Backlog, Totals
from bench.peers import profiles
from bench.progress import POLL_S, BenchError, Worked, work_off
from bench.workloads import events_of
from load.events import cookie_of
from stack.processes import ROOT
from stack.service import die_with_parent, last_lines
from streams.clock import SYSTEM_CLOCK
from streams.event_time import format_minute
from streams.topics import USER_TAGS

FOLDER = "peer"
MINUTE_CHARACTERS = len("2022-03-01T00:00")
WARM_PART = 0.3
"""More than our worker gets: the compiler of a JVM needs some 500,000 events to settle. The same for every peer."""
WARM_WITHIN_S = 600.0
END_TIMEOUT_S = 300.0
LOG_LINES_SHOWN = 20
DIFFERENCES_SHOWN = 5


@dataclass(frozen=True)
class Program:
    """A running peer, and the folder in which it reports."""

    process: subprocess.Popen[bytes]
    home: Path

    def counted(self) -> int:
        """Return how many events it has counted.

        Raises:
            OSError: it has not said so yet.
        """
        return int((self.home / "counted").read_text(encoding="utf-8"))

    def warm_up(self, events: int) -> None:
        """Return as soon as it has counted *events*.

        Asked often, which costs the peer nothing: a JVM gets faster as it runs, so its rate does not say how long it will take.

        Raises:
            BenchError: it ended, or is not there after `WARM_WITHIN_S`.
        """
        give_up_s = SYSTEM_CLOCK.monotonic_s() + WARM_WITHIN_S
        while self._counted_so_far() < events:
            if self.process.poll() is not None or SYSTEM_CLOCK.monotonic_s() > give_up_s:
                raise BenchError(f"{self._counted_so_far()} of the first {events} events were counted")
            time.sleep(POLL_S)

    def _counted_so_far(self) -> int:
        try:
            return self.counted()
        except OSError:
            return 0

    def end(self) -> dict[str, Totals]:
        """Let it end in order and return the totals of what its state holds, by minute and action.

        Raises:
            BenchError: it did not end, or not in order.
        """
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            status = self.process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            raise BenchError(f"it did not end within {END_TIMEOUT_S:.0f} s") from error
        if status != 0:
            raise BenchError(f"it ended with {status}")
        return read_totals((self.home / "totals").read_text(encoding="utf-8"))

    def profiles(self) -> profiles.Profiles:
        """Return the profiles that it told when it ended.

        Raises:
            OSError: it told none.
        """
        return profiles.read_profiles((self.home / "profiles").read_text(encoding="utf-8"))


def count_backlog(backlog: Backlog, command: Sequence[str], *, has_profiles: bool = False) -> Worked:
    """Let a peer count a whole backlog; return what it needed, its totals checked, and its profiles if it has some.

    Raises:
        BenchError: they are wrong, or it does not get there.
    """
    try:
        with running(backlog, command, cookies=cookies_checked(backlog) if has_profiles else ()) as program:
            program.warm_up(int(backlog.workload.events * WARM_PART))
            worked = work_off([program.process.pid], program.counted, backlog.workload.events, warm_part=0)
            check(program.end(), expected_of(backlog.totals))
            if has_profiles:
                expected = profiles.expected_of(events_of(backlog.workload), cookies_checked(backlog))
                profiles.check(program.profiles(), expected)
    except BenchError as error:
        log = "\n".join(last_lines(backlog.home / FOLDER / "log", LOG_LINES_SHOWN))
        raise BenchError(f"{error}; its log ends with:\n{log}") from error
    return worked


def cookies_checked(backlog: Backlog) -> tuple[str, ...]:
    """Return users whose profiles are compared event by event: an ordinary one, and a hot one, whose profile is full."""
    return (backlog.user, cookie_of(0).decode())


@contextmanager
def running(backlog: Backlog, command: Sequence[str], *, cookies: Sequence[str] = ()) -> Iterator[Program]:
    """Start a peer on a backlog, which shall tell the whole profiles of *cookies*; it is killed at the end."""
    home = backlog.home / FOLDER
    home.mkdir()
    temporary = home / "temporary"
    temporary.mkdir()
    told = {
        "PEER_SERVERS": backlog.servers,
        "PEER_TOPIC": USER_TAGS.topic,
        "PEER_HOME": str(home),
        "PEER_COOKIES": ",".join(cookies),
    }
    # Where a JVM unpacks RocksDB, and Flink keeps its own: gone with the run, however that ends.
    told |= {"TMPDIR": str(temporary), "JAVA_TOOL_OPTIONS": f"-Djava.io.tmpdir={temporary}"}
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **told},
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            preexec_fn=die_with_parent(signal.SIGKILL),  # noqa: PLW1509 - one C call, safe after a fork
        )
    try:
        yield Program(process, home)
    finally:
        process.kill()
        process.wait()
        if process.stdin is not None:
            process.stdin.close()


def read_totals(text: str) -> dict[str, Totals]:
    """Return totals by "minute|action" from a peer's lines "minute|action, tab, count, tab, sum".

    >>> read_totals("2022-03-01T00:00|BUY\\t2\\t30\\n")
    {'2022-03-01T00:00|BUY': Totals(count=2, price_sum=30)}
    """
    lines = (line.split("\t") for line in text.splitlines())
    return {key: Totals(int(count), int(total)) for key, count, total in lines}


def expected_of(totals: Mapping[tuple[int, str], Totals]) -> dict[str, Totals]:
    """Return a backlog's right answers under the keys that peers use."""
    return {f"{format_minute(minute)[:MINUTE_CHARACTERS]}|{action}": right for (minute, action), right in totals.items()}


def check(told: Mapping[str, Totals], expected: Mapping[str, Totals]) -> None:
    """Compare what a peer tells with what was sent.

    Raises:
        BenchError: something differs.
    """
    wrong = [
        f"{key}: {told.get(key)}, not {expected.get(key)}"
        for key in sorted({*told, *expected})
        if told.get(key) != expected.get(key)
    ]
    if wrong:
        raise BenchError(f"{len(wrong)} wrong totals: {'; '.join(wrong[:DIFFERENCES_SHOWN])}")
