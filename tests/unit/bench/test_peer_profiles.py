"""The right profiles of a backlog, and peers whose profiles are not: refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from bench.peers.profiles import Profiles, check, expected_of, read_profiles
from bench.progress import BenchError
from load.events import GeneratedEvent
from tables.profiles import NEWEST_MAX

RIGHT = Profiles(3, {("user", "BUY"): [{"number": 2}, {"number": 1}]})


def a_sent_event(number: int, *, at_ms: int = 0, cookie: str = "user", action: str = "VIEW") -> GeneratedEvent:
    return GeneratedEvent(cookie.encode(), at_ms, msgspec.json.encode({"action": action, "number": number}))


def numbers(profiles: Profiles, cookie: str = "user", action: str = "VIEW") -> list[Any]:
    return [event["number"] for event in profiles.newest[cookie, action]]


def test_newest_by_event_time_come_first_and_of_a_tie_the_later_arrival() -> None:
    """What the task asks of a profile, and a peer must sort by."""
    events = [a_sent_event(1, at_ms=20), a_sent_event(2, at_ms=10), a_sent_event(3, at_ms=20)]
    assert numbers(expected_of(events, ["user"])) == [3, 1, 2]


def test_events_too_many_are_left_out_of_profile_and_rows() -> None:
    """A reader sees the newest only, of each action by itself, however seldom a peer removes the others."""
    views = [a_sent_event(number, at_ms=number) for number in range(NEWEST_MAX + 1)]
    right = expected_of([*views, a_sent_event(0, action="BUY"), a_sent_event(0, cookie="other")], ["user"])
    assert numbers(right)[0] == NEWEST_MAX and numbers(right)[-1] == 1
    assert numbers(right, action="BUY") == [0]
    assert right.rows == NEWEST_MAX + 2


def test_right_profiles_pass() -> None:
    """A peer writes whole events, a line each."""
    lines = [msgspec.json.encode({"cookie": "user", "action": "BUY", "number": number}).decode() for number in (2, 1)]
    told = read_profiles("\n".join(["3", *lines]))
    assert told.rows == 3 and numbers(told, action="BUY") == [2, 1]
    check(RIGHT, RIGHT)


@pytest.mark.parametrize(
    "told",
    [
        replace(RIGHT, rows=2),
        replace(RIGHT, newest={("user", "BUY"): [{"number": 1}, {"number": 2}]}),
        replace(RIGHT, newest={("user", "BUY"): [{"number": 2}]}),
        replace(RIGHT, newest={**RIGHT.newest, ("user", "VIEW"): [{"number": 1}]}),
        replace(RIGHT, newest={}),
    ],
)
def test_wrong_profiles_are_refused(told: Profiles) -> None:
    """A peer that is fast because it forgets events, fields or order is no measure."""
    with pytest.raises(BenchError, match="profiles"):
        check(told, RIGHT)
