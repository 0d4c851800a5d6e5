"""Decide when rows may be written: at once, or in a window of the day, or because somebody asks.

In the policy `window(HH:MM)` a held topic is read only up to an offset of each partition, `forward_to`. It moves to the
topic's end when the window begins (UTC) and when somebody asks (`python -m sinks flush`), once for each, and stands in Postgres
(`tally.forward_positions`): sinks that were down at that time, or were killed in the middle, write the rest when they come up.
A partition that was never held begins with what is there already held back. Other topics are never held.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import psycopg

from sinks.queries import event_query
from sinks.writers import Place
from streams.clock import Clock
from streams.errors import SettingsError

IMMEDIATE = "immediate"
LOOK_INTERVAL_S = 1.0
QUIET_S = 5.0
"""What a window lets through waits for the rest of it, so that batches are full; no longer than this for the next record."""
_WINDOW = re.compile(r"window\(([01]\d|2[0-3]):([0-5]\d)\)")

Ends = Callable[[Iterable[Place]], Mapping[Place, int]]
"""Asks Kafka for the end offsets of places."""


class Window(NamedTuple):
    """A time of each day, UTC."""

    hour: int
    minute: int

    def latest(self, now_ms: int) -> datetime:
        """Return when it last began.

        >>> Window(7, 0).latest(1_646_092_800_000).isoformat()
        '2022-02-28T07:00:00+00:00'
        """
        now = datetime.fromtimestamp(now_ms / 1000, UTC)
        today = now.replace(hour=self.hour, minute=self.minute, second=0, microsecond=0)
        return today if today <= now else today - timedelta(days=1)


class Forwarding(NamedTuple):
    """What Postgres knows of a partition.

    Attributes:
        window_at: the last window that was opened; None where nothing was ever held.
        forward_to: offset before which everything may be written.
        asked: somebody has asked since that was last decided.
    """

    window_at: datetime | None
    forward_to: int | None
    asked: bool


def read_window(policy: str) -> Window | None:
    """Return the window of a policy, None for `immediate`.

    Raises:
        SettingsError: it is neither.

    >>> read_window("window(07:00)"), read_window("immediate")
    (Window(hour=7, minute=0), None)
    """
    if policy == IMMEDIATE:
        return None
    match = _WINDOW.fullmatch(policy)
    if match is None:
        raise SettingsError(f"sinks.events_forward is {policy!r}; right is immediate, or window(HH:MM), UTC")
    return Window(int(match[1]), int(match[2]))


class Forward:
    """How far the partitions of this process may be read. Called by the loop's thread only."""

    def __init__(self, topics: Collection[str] = (), window: Window | None = None, *, clock: Clock | None = None) -> None:
        """Describe what is held: *topics* but in a *window*; without one, nothing."""
        self._topics = list(topics) if window is not None else []
        self._window = window
        self._clock = clock
        self._goals: dict[Place, int] = {}
        self._looked_at_s = float("-inf")

    def held(self, places: Iterable[Place]) -> list[Place]:
        """Return which of *places* are held but in a window."""
        return [place for place in places if place.topic in self._topics]

    def stops(self, place: Place, offset: int) -> bool:
        """Say whether the record of an offset may not be written yet."""
        return place.topic in self._topics and offset >= self._goals.get(place, 0)

    def due_end(self, place: Place, end: int) -> int:
        """Return before which offset a partition should be written: its end, where nothing is held."""
        return min(end, self._goals.get(place, 0)) if place.topic in self._topics else end

    def is_due(self) -> bool:
        """Return whether it is time to look whether a window has begun."""
        if self._clock is None or not self._topics:
            return False
        return self._clock.monotonic_s() - self._looked_at_s >= LOOK_INTERVAL_S

    def begin(self) -> None:
        """Forget every partition: others may be given to us."""
        self._goals = {}
        self._looked_at_s = float("-inf")

    def look(self, connection: psycopg.Connection, positions: Mapping[Place, int], ends: Ends) -> bool:
        """Learn how far the partitions at *positions* may be read, and open those whose window has begun.

        Returns:
            Whether any of it has changed.

        Raises:
            psycopg.Error: Postgres does not answer; what was known goes on.
        """
        if self._clock is None or self._window is None:
            return False
        self._looked_at_s = self._clock.monotonic_s()
        window_at = self._window.latest(self._clock.now_ms())
        places = self.held(positions)
        found, seen_at = self._read(connection)
        unknown = [place for place in places if place not in found or found[place].window_at is None]
        opening = [place for place in places if place not in unknown and _is_due(found[place], window_at)]
        moved = {place: positions[place] for place in unknown} | (dict(ends(opening)) if opening else {})
        if moved:
            self._save(connection, moved, window_at=window_at, seen_at=seen_at)
        before = self._goals
        known = {place: found[place].forward_to or 0 for place in places if place in found}
        self._goals = known | {place: max(end, known.get(place, 0)) for place, end in moved.items()}
        return self._goals != before

    def _read(self, connection: psycopg.Connection) -> tuple[dict[Place, Forwarding], datetime]:
        seen_at = datetime.fromtimestamp(0, UTC)
        found: dict[Place, Forwarding] = {}
        rows = connection.execute(event_query("read_forward"), {"topics": self._topics}).fetchall()
        for topic, partition, window_at, forward_to, asked, seen_at in rows:  # noqa: B007 - the last row's will do
            found[Place(topic, partition)] = Forwarding(window_at, forward_to, bool(asked))
        return found, seen_at

    def _save(
        self, connection: psycopg.Connection, moved: Mapping[Place, int], *, window_at: datetime, seen_at: datetime
    ) -> None:
        values = {
            "topics": [place.topic for place in moved],
            "partitions": [place.partition for place in moved],
            "offsets": list(moved.values()),
            "window_at": window_at,
            "seen_at": seen_at,
        }
        connection.execute(event_query("open_forward"), values)


def _is_due(forwarding: Forwarding, window_at: datetime) -> bool:
    return forwarding.asked or forwarding.window_at is None or forwarding.window_at < window_at
