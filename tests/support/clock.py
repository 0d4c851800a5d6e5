"""A clock that stands until a test steps it."""

from __future__ import annotations


class SteppedClock:
    """Both clocks of `streams.clock.Clock`, moved together."""

    def __init__(self, *, now_ms: int = 0) -> None:
        self._now_ms = now_ms

    def now_ms(self) -> int:
        return self._now_ms

    def monotonic_s(self) -> float:
        return self._now_ms / 1000

    def step(self, seconds: float) -> None:
        """Let time pass."""
        self._now_ms += round(seconds * 1000)
