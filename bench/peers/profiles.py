"""Compare the profiles that a peer keeps with those of the events that were sent: some whole ones, and the number of rows."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from bench.progress import BenchError
from load.events import GeneratedEvent
from tables.profiles import NEWEST_MAX


@dataclass(frozen=True)
class Profiles:
    """What profiles hold.

    Attributes:
        rows: events of all profiles together.
        newest: some profiles: the events, whole, by cookie and action; newest first, at most `NEWEST_MAX`.
    """

    rows: int
    newest: Mapping[tuple[str, str], list[dict[str, Any]]]


class _Acted(msgspec.Struct):
    action: str


def expected_of(events: Iterable[GeneratedEvent], cookies: Collection[str]) -> Profiles:
    """Return what the profiles of *events*, in the order sent, should hold; whole those of *cookies*."""
    decode = msgspec.json.Decoder(_Acted).decode
    found: Counter[tuple[bytes, str]] = Counter()
    sent: defaultdict[tuple[str, str], list[GeneratedEvent]] = defaultdict(list)
    wanted = {cookie.encode() for cookie in cookies}
    for event in events:
        action = decode(event.body).action
        found[event.cookie, action] += 1
        if event.cookie in wanted:
            sent[event.cookie.decode(), action].append(event)
    newest = {
        profile: [msgspec.json.decode(event.body) for event in _newest(of_profile)] for profile, of_profile in sent.items()
    }
    return Profiles(sum(min(count, NEWEST_MAX) for count in found.values()), newest)


def _newest(events: list[GeneratedEvent]) -> list[GeneratedEvent]:
    """Return the newest, newest first; of two with the same time the later one is newer."""
    return sorted(events, key=lambda event: event.at_ms)[::-1][:NEWEST_MAX]


def read_profiles(text: str) -> Profiles:
    r"""Return the profiles of what a peer wrote: the number of rows, then events of some users, a line each, newest first.

    >>> read_profiles('7\n{"cookie":"c","action":"BUY"}\n')
    Profiles(rows=7, newest={('c', 'BUY'): [{'cookie': 'c', 'action': 'BUY'}]})
    """
    rows, *lines = text.splitlines()
    newest: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for event in map(msgspec.json.decode, lines):
        newest.setdefault((event["cookie"], event["action"]), []).append(event)
    return Profiles(int(rows), newest)


def check(told: Profiles, expected: Profiles) -> None:
    """Compare what a peer tells with what was sent.

    Raises:
        BenchError: something differs.
    """
    if told.rows != expected.rows:
        raise BenchError(f"profiles of {told.rows} events, not {expected.rows}")
    profiles = sorted({*told.newest, *expected.newest})
    wrong = [" ".join(profile) for profile in profiles if told.newest.get(profile) != expected.newest.get(profile)]
    if wrong:
        raise BenchError(f"wrong profiles: {', '.join(wrong)}")
