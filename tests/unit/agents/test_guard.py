"""Nothing escapes into Faust: an exception there acknowledges the batch that failed, so the process ends first."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from agents.guard import EXIT_CODE, DeadLetterShare, guard
from streams.errors import DeadLetterLimitError, Reason
from streams.settings import DeadLetters
from tables.fold import Refused

ROOT = Path(__file__).parents[3]
PROGRAM = """
import asyncio, atexit, logging, sys
from agents.guard import guard
from streams.errors import LostEventsError

logging.basicConfig(format="%(levelname)s %(message)s", stream=sys.stderr)
atexit.register(lambda: print("cleaned up"))

async def main():
    try:
        async with guard():
            {body}
    finally:
        print("acknowledged")
    print("went on")

asyncio.run(main())
"""


def run_guarded(body: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(body=body)], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    )


@pytest.mark.parametrize("error", ["RuntimeError('broken')", "SystemExit(0)"])
def test_an_exception_ends_the_process_before_anything_can_acknowledge(error: str) -> None:
    """faust.md fact 7: raise at offset 5, committed 6. No `finally`, no exit handler runs."""
    ended = run_guarded(f"raise {error}")
    assert ended.returncode == EXIT_CODE == 70
    assert ended.stdout == ""
    assert "the worker stops after an unexpected error" in ended.stderr


def test_an_error_of_our_own_is_one_line_without_a_trace() -> None:
    ended = run_guarded("raise LostEventsError('events are gone')")
    assert ended.returncode == EXIT_CODE
    assert ended.stderr.strip() == "CRITICAL the worker stops: events are gone"


def test_a_body_that_ends_well_goes_on() -> None:
    assert run_guarded("pass").stdout.split("\n")[:2] == ["acknowledged", "went on"]


async def test_cancellation_passes() -> None:
    """A rebalance and a shutdown cancel: they must not look like a failure."""

    async def guarded() -> None:
        async with guard():
            await asyncio.sleep(3600)

    task = asyncio.ensure_future(guarded())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def share(*, window: int = 100, share_max: float = 0.5) -> DeadLetterShare:
    return DeadLetterShare(DeadLetters(window_records=window, share_max=share_max))


def test_a_share_at_its_limit_is_let_through_and_one_past_it_is_not() -> None:
    limits = share()
    limits.add(records=100, dead=50)
    with pytest.raises(DeadLetterLimitError, match="51 of the last 100 records"):
        share().add(records=100, dead=51)


def test_limit_names_the_record_at_which_it_trips() -> None:
    """Its batch is not sent, so when it is the first one, its reason stands nowhere else."""
    last = Refused(17, Reason.SCHEMA, "price: int expected")
    with pytest.raises(DeadLetterLimitError, match="the last one at offset 17, schema: price: int expected"):
        share().add(records=100, dead=51, last=last)


def test_nothing_is_judged_before_the_window_is_full() -> None:
    """The first record ever may be a dead letter."""
    limits = share()
    limits.add(records=99, dead=99)
    assert limits.share == 1.0


def test_old_batches_leave_the_window() -> None:
    limits = share()
    limits.add(records=50, dead=50)
    for _ in range(10):
        limits.add(records=50, dead=0)
    assert limits.share == 0.0


def test_the_window_never_holds_less_than_its_size() -> None:
    limits = share()
    for records in (60, 60, 60):
        limits.add(records=records, dead=0)
    with pytest.raises(DeadLetterLimitError, match="60 of the last 120"):
        share_of = share(share_max=0.4)
        for records, dead in ((60, 0), (60, 0), (60, 60)):
            share_of.add(records=records, dead=dead)


def test_with_a_limit_of_one_everything_passes() -> None:
    limits = share(share_max=1)
    for _ in range(10):
        limits.add(records=100, dead=100)


def test_batches_without_records_leave_no_trace() -> None:
    """Markers of transactions come as such."""
    limits = share()
    for _ in range(1000):
        limits.add(records=0, dead=0)
    assert limits.share == 0.0
    limits.add(records=100, dead=0)
