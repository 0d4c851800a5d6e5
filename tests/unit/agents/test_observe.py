"""What a batch tells of its producers is looked at in a sample, and noted no oftener than a recovery can bear."""

from __future__ import annotations

from typing import Any

from agents.guard import DeadLetterShare
from agents.observe import NOTE_INTERVAL_S, BatchObserver
from streams.metrics import WorkerMetrics
from streams.partitioner import partition_of
from streams.settings import DeadLetters
from tables.duplicates import duplicate_key
from tables.profiles import INDEX, ORDER
from tests.support.clock import SteppedClock

PARTITIONS = 4
HOME = partition_of(b"ann", PARTITIONS)
ELSEWHERE = (HOME + 1) % PARTITIONS
ROW = [b"ann\0T" + bytes(ORDER.size), b"value"]
PLACE = [INDEX + b"ann\0id" + bytes(ORDER.size), b""]


def an_observer(clock: Any) -> BatchObserver:
    share = DeadLetterShare(DeadLetters())
    return BatchObserver("events.v1", share, partitions=PARTITIONS, metrics=WorkerMetrics(), clock=clock)


def test_user_that_lies_elsewhere_is_noted_now_and_then() -> None:
    """P13: transactions lie by product, so each batch has some; a record of its own each time would make a recovery endless."""
    clock = SteppedClock()
    observer = an_observer(clock)
    assert observer.sees_misrouted(ELSEWHERE, ROW)
    assert not observer.sees_misrouted(ELSEWHERE, ROW)
    assert not observer.sees_misrouted(HOME, ROW)
    clock.step(NOTE_INTERVAL_S)
    assert observer.sees_misrouted(ELSEWHERE, ROW)


def test_rows_of_the_index_are_looked_at_by_their_user_and_duplicates_not_at_all() -> None:
    """A duplicate's row names nobody: taken for a user's it would send every query to every worker."""
    observer = an_observer(SteppedClock())
    assert not observer.sees_misrouted(HOME, PLACE)
    assert not any(observer.sees_misrouted(partition, [duplicate_key(7), b""]) for partition in range(PARTITIONS))
    assert observer.sees_misrouted(ELSEWHERE, PLACE)
