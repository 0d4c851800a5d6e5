"""Tell the time: the only place of the client that asks the system, so that tests can give it another clock."""

from __future__ import annotations

import time
from datetime import datetime, timezone
from typing import Protocol


class Clock(Protocol):
    """Where the client gets the time."""

    def wall_s(self) -> float:
        """Return seconds since 1970, UTC. It may jump: only stamps are made of it."""
        ...

    def elapsed_s(self) -> float:
        """Return seconds that never go back, from an arbitrary start; every delay and age is measured by it."""
        ...

    def wait_s(self, seconds: float) -> float:
        """Return for how long (s) the machine must wait for *seconds* to pass here; another number in tests only."""
        ...


class SystemClock:
    """The machine's own clock.

    `elapsed_s` counts a suspended machine's sleep where the system can tell (Linux): an event that slept for a
    week is a week old.
    """

    def wall_s(self) -> float:
        return time.time()

    def wait_s(self, seconds: float) -> float:
        return seconds

    if hasattr(time, "CLOCK_BOOTTIME"):

        def elapsed_s(self) -> float:
            return time.clock_gettime(time.CLOCK_BOOTTIME)

    else:  # pragma: no cover

        def elapsed_s(self) -> float:
            return time.monotonic()


SYSTEM_CLOCK = SystemClock()


def rfc3339(wall_s: float) -> str:
    """Return an instant as RFC 3339 in UTC.

    >>> rfc3339(1735787045.5)
    '2025-01-02T03:04:05.500000Z'
    """
    return datetime.fromtimestamp(wall_s, timezone.utc).isoformat().replace("+00:00", "Z")
