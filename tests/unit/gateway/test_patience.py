"""Who waits for a worker to come back, and who is told at once."""

from __future__ import annotations

import asyncio

import pytest

from gateway.patience import Patience

LIMIT_S = 10.0


class SettableClock:
    """Time as the test says."""

    def __init__(self) -> None:
        self.at_s = 1_000.0

    def monotonic_s(self) -> float:
        return self.at_s

    def now_ms(self) -> int:
        return int(self.at_s * 1000)


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock()


async def test_queries_wait_until_an_outage_is_older_than_the_limit(clock: SettableClock) -> None:
    """The first may wait for all of its time limit; one that comes when nothing has come back for as long need not try."""
    patience = Patience(limit_s=LIMIT_S, waiting_max=1, clock=clock)
    patience.note_refusal()
    clock.at_s += LIMIT_S
    patience.note_refusal()
    assert patience.may_wait()
    clock.at_s += 0.1
    assert not patience.may_wait()
    patience.note_answer()
    patience.note_refusal()
    assert patience.may_wait(), "another outage"


async def test_refusal_after_a_long_quiet_begins_another_outage(clock: SettableClock) -> None:
    """Where nobody asked for an hour, what was an hour ago says nothing."""
    patience = Patience(limit_s=LIMIT_S, waiting_max=1, clock=clock)
    patience.note_refusal()
    clock.at_s += 3_600
    patience.note_refusal()
    assert patience.may_wait()


async def test_only_so_many_wait(clock: SettableClock) -> None:
    """Each holds a connection, and asks the workers again and again."""
    patience = Patience(limit_s=LIMIT_S, waiting_max=2, clock=clock)
    with patience.wait():
        assert patience.may_wait()
        with patience.wait():
            assert not patience.may_wait()
        assert patience.may_wait()


async def test_stop_ends_every_pause(clock: SettableClock) -> None:
    """A gateway that stops does not keep queries that another could answer."""
    patience = Patience(limit_s=LIMIT_S, waiting_max=9, clock=clock)
    assert await patience.pause(1), "an ordinary pause is followed by a try"
    pausing = [asyncio.create_task(patience.pause(20)) for _ in range(3)]
    patience.end()
    assert await asyncio.gather(*pausing) == [False] * 3
    assert not patience.may_wait()
