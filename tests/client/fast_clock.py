"""A clock that runs faster than the machine's, so that hours of retries take no time; its wall can be made to jump."""

from __future__ import annotations

import time


class FastClock:
    """Time since its making, *speed* times as fast; waiting for it is that much shorter.

    Args:
        speed: seconds of this clock in one of the machine's.
    """

    def __init__(self, speed: float = 50.0) -> None:
        self._speed = speed
        self._start_s = time.monotonic()
        self._wall_start_s = time.time()
        self.jumped_s = 0.0
        self.slept_s = 0.0

    def wall_s(self) -> float:
        return self._wall_start_s + self.elapsed_s() + self.jumped_s

    def elapsed_s(self) -> float:
        return (time.monotonic() - self._start_s) * self._speed + self.slept_s

    def wait_s(self, seconds: float) -> float:
        return seconds / self._speed
