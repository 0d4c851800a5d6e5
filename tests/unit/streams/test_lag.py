"""Lag in seconds is the age of the oldest record that waits, by Kafka's clock where it is known."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from streams.lag import SAMPLES_MAX, DueClock, LagClock


def test_nothing_waits_at_the_end_of_the_log() -> None:
    """However old the last record is: an idle partition has no lag."""
    assert LagClock().seconds(10, 10, now_s=500.0, arrived_at_s=3.0) == 0


def test_age_is_that_of_the_record_where_somebody_has_read_it() -> None:
    """A backlog from before the process began is as old as its records, not as the process."""
    assert LagClock().seconds(10, 20, now_s=500.0, arrived_at_s=100.0) == 400


def test_age_of_an_unread_record_is_counted_from_the_first_sight_of_it() -> None:
    """The log grew past it at 3 s; what came before is done, and what came later is younger."""
    clock = LagClock()
    for now_s, position, end in ((1.0, 10, 10), (2.0, 10, 10), (3.0, 10, 14), (4.0, 12, 20)):
        clock.seconds(position, end, now_s=now_s)
    assert clock.seconds(13, 30, now_s=10.0) == 7
    assert clock.seconds(14, 30, now_s=11.0) == 7, "offset 14 was first seen at 4 s"
    assert clock.seconds(30, 30, now_s=12.0) == 0
    assert clock.seconds(30, 31, now_s=13.0) == 0


@given(st.integers(SAMPLES_MAX + 50, 3 * SAMPLES_MAX), st.randoms(use_true_random=True))
def test_memory_is_bounded_and_a_stall_still_grows(length: int, random: Random) -> None:
    """A position that stands for days, while the log grows, is as old as the first of what it waits for."""
    steps = random.choices(range(6), k=length)  # drawn one by one they take twenty times as long as what is tested
    clock, end = LagClock(), 1
    ages = []
    for now_s, step in enumerate(steps):
        end += step
        ages.append(clock.seconds(0, end, now_s=float(now_s)))
        assert len(clock._samples) <= SAMPLES_MAX
    assert ages == [float(number) for number in range(len(steps))]


def test_a_commit_is_due_from_when_it_could_be_made_until_it_is() -> None:
    """Commits go from bucket to bucket: hours without one are right as long as none could be made."""
    clock = DueClock()
    assert clock.seconds(0, 0, now_s=1.0) == 0
    assert clock.seconds(0, 4096, now_s=2.0) == 0
    assert clock.seconds(0, 8192, now_s=62.0) == 60
    assert clock.seconds(4096, 8192, now_s=63.0) == 0, "it moved"
    assert clock.seconds(8192, 8192, now_s=64.0) == 0
    assert clock.seconds(8192, 12288, now_s=100.0) == 0
