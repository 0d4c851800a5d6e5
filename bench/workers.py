"""Run Tally's own workers on a backlog, and check that what they answer is what was sent."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from urllib.error import URLError
from urllib.parse import urlencode

from bench.backlogs import Backlog, Totals
from bench.progress import BenchError, Worked, work_off
from streams.event_time import format_minute
from streams.topics import USER_TAGS
from tables.profiles import NEWEST_MAX
from tests.support.eventually import eventually
from tests.support.worker import WorkerProcess, get
from views.queries import MINUTES_MAX

ALWAYS = "1970-01-01T00:00:00_9999-12-31T23:59:59.999"
RIGHT_WITHIN_S = 60.0
LOG_SHOWN = 2_000
WITHOUT_PROFILES = {"TALLY_WORKER_PROFILES": "false"}


@contextmanager
def running_workers(
    backlog: Backlog, *, count: int = 1, settings: Mapping[str, str] | None = None
) -> Iterator[list[WorkerProcess]]:
    """Start workers on a backlog, without waiting for them; they are killed at the end.

    Raises:
        BenchError: the measuring failed; a worker that ended meanwhile is named with the end of its log.
    """
    home, environ = backlog.home / "workers", {**backlog.settings, **(settings or {})}
    workers = [WorkerProcess(backlog.servers, home, index=index, settings=environ) for index in range(count)]
    try:
        for worker in workers:
            worker.start(wait=False)
        yield workers
    except BenchError as error:
        ended = [worker for worker in workers if worker.process is not None and worker.process.poll() is not None]
        told = (f"; a worker ended with {worker.process.returncode}: {worker.log()[-LOG_SHOWN:]}" for worker in ended)  # type: ignore[union-attr]
        raise BenchError(f"{error}{''.join(told)}") from error
    finally:
        for worker in workers:
            worker.kill()


def pids_of(workers: Sequence[WorkerProcess]) -> list[int]:
    """Return the process ids of started workers."""
    return [worker.process.pid for worker in workers if worker.process is not None]


def counted_by(workers: Sequence[WorkerProcess]) -> int:
    """Return how many events are counted, what was read twice left out.

    Raises:
        OSError: one of them does not answer.
    """
    return int(sum(worker.metric("tally_events_total") - worker.metric("tally_replayed_offsets_total") for worker in workers))


def count_backlog(backlog: Backlog, *, settings: Mapping[str, str] | None = None) -> Worked:
    """Let one worker count a whole backlog; return what it needed, its answers checked.

    Raises:
        BenchError: an answer is wrong, or the worker does not get there.
    """
    with running_workers(backlog, settings=settings) as workers:
        worked = work_off(pids_of(workers), lambda: counted_by(workers), backlog.workload.events)
        check(backlog, workers[0], profiles=settings is not WITHOUT_PROFILES)
    return worked


def check(backlog: Backlog, worker: WorkerProcess, *, profiles: bool = True) -> None:
    """Compare every minute's totals, and a profile, with what was sent.

    Raises:
        BenchError: something differs, even after a while: the newest events show about a second later.
    """
    last: dict[str, object] = {}

    def is_right() -> bool:
        last["totals"] = wrong_minutes(worker.url, backlog.totals)
        last["profile"] = _wrong_profile(worker, backlog) if profiles else ""
        return not any(last.values())

    try:
        eventually(is_right, within_s=RIGHT_WITHIN_S, what="the right answers")
    except AssertionError as error:
        raise BenchError(f"wrong answers: {last}") from error


def wrong_minutes(url: str, totals: Mapping[tuple[int, str], Totals]) -> list[str]:
    """Return the minutes and actions whose count or sum an aggregates query of *url* tells otherwise.

    Raises:
        OSError: nobody answers.
    """
    wrong: list[str] = []
    wanted: defaultdict[str, dict[int, Totals]] = defaultdict(dict)
    for (minute, action), expected in totals.items():
        wanted[action][minute] = expected
    for action, minutes in wanted.items():
        for start in range(min(minutes), max(minutes) + 1, MINUTES_MAX):
            told = totals_of(url, action, start, min(start + MINUTES_MAX, max(minutes) + 1))
            wrong += [
                f"{action} {format_minute(minute)}: {found}, not {minutes.get(minute, Totals(0, 0))}"
                for minute, found in told.items()
                if found != minutes.get(minute, Totals(0, 0))
            ]
    return wrong


def totals_of(url: str, action: str, start: int, end: int) -> dict[int, Totals]:
    """Ask for count and sum of an action in the minutes [start, end); both since 1970.

    Raises:
        OSError: nobody answers.
    """
    asked = [("time_range", f"{format_minute(start)}_{format_minute(end)}"), ("action", action)]
    query = urlencode([*asked, ("aggregates", "COUNT"), ("aggregates", "SUM_PRICE")], safe=":")
    status, answer = get(f"{url}/aggregates?{query}", body=b"")
    if status != 200:
        raise URLError(f"{status}: {answer}")
    return {start + index: Totals(int(row[2]), int(row[3])) for index, row in enumerate(answer["rows"])}


def _wrong_profile(worker: WorkerProcess, backlog: Backlog) -> str:
    status, answer = get(f"{worker.url}/user_profiles/{backlog.user}?time_range={ALWAYS}", body=b"")
    if status != 200:
        return f"{status}: {answer}"
    found = {"VIEW": len(answer["views"]), "BUY": len(answer["buys"])}
    wanted = {kind: min(NEWEST_MAX, backlog.user_events.get(kind, 0)) for kind in USER_TAGS.kinds}
    return "" if found == wanted else f"profile of {found} events, not {wanted}"
