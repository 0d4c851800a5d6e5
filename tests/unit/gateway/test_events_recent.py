"""What a gateway remembers of events: the newest ones, never more than it may."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gateway.events_recent import RecentEvents
from gateway.events_records import Records


def of(*names: str, user: str = "u") -> Records:
    """Return records whose ids, and payloads, are *names*."""
    ids = list(names)
    return Records(list(range(len(ids))), ids, ids, [user] * len(ids), [b""] * len(ids), [hash(name) for name in ids])


@given(st.lists(st.lists(st.integers(0, 50), min_size=1, max_size=30), max_size=20), st.integers(2, 40))
def test_the_newest_are_known_and_memory_is_bounded(requests: list[list[int]], events_max: int) -> None:
    """At least the newest half of what it may remember, and never more than that."""
    recent = RecentEvents(events_max)
    order: list[str] = []
    for numbers in requests:
        records = of(*map(str, numbers))
        known = recent.sort(records)
        assert sorted([*known.fresh, *known.known]) == list(range(len(numbers)))
        fresh = records.keep(known.fresh)
        assert len(set(fresh.ids)) == len(fresh.ids)
        assert not set(fresh.ids) & set(order[-(events_max // 2) :])
        recent.remember(fresh)
        order += fresh.ids
        assert len(recent) <= events_max + len(numbers)
    assert len(recent) <= max(2, events_max)


def test_an_id_is_known_for_its_user_only() -> None:
    """The worker tells submissions apart by user and id, and the gateway must not know more than it."""
    recent = RecentEvents(100)
    recent.remember(of("a", "b"))
    assert recent.sort(of("a", user="v")).fresh == [0]
    for long in ("u" * 500, "🍪" * 512):
        recent.remember(of("a", user=long))
        assert recent.sort(of("a", "z", user=long)).known == [0]
        assert recent.sort(of("a", user=long[:-1])).known == []
        assert max(map(len, recent._young)) < 100, "texts of others must not fill the memory"
    assert recent.sort(of("c", "a", "b", "c")).known == [1, 2, 3]


def test_what_differs_under_a_known_id_is_a_conflict() -> None:
    """The first one wins; that is counted, not hidden."""
    recent = RecentEvents(100)
    recent.remember(of("a"))
    changed = of("a", "a")
    changed.digests[1] += 1
    assert (recent.sort(changed).known, recent.sort(changed).conflicts) == ([0, 1], 1)


def test_only_what_was_acknowledged_is_remembered() -> None:
    """An event that Kafka may not have must be written when it comes again."""
    recent = RecentEvents(100)
    recent.remember(of("a", "b", "c"), [0, 2])
    assert recent.sort(of("a", "b", "c")).fresh == [1]


class NotGoneThrough(dict[Any, int]):
    """A memory that may be asked, and not gone through."""

    def __iter__(self) -> Iterator[Any]:
        raise AssertionError("all that is remembered was gone through for one request")


def test_a_request_costs_its_own_events_and_not_what_is_remembered() -> None:
    """A set that is asked for what it shares with a dict goes through all of the dict: 100,000 ids, 5 ms for one event."""
    recent = RecentEvents(8)
    for name in "abcdef":
        recent.remember(of(name))
    recent._young, recent._old = NotGoneThrough(recent._young), NotGoneThrough(recent._old)
    assert (len(recent._young), len(recent._old)) == (2, 4)
    assert recent.sort(of("x")).fresh == [0]
    recent.remember(of("x"))
    assert recent.sort(of("x")).known == [0]
