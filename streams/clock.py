"""Tell the time: the only place that asks the system, so that tests and modules can be given another clock."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Where code that needs the time gets it."""

    def now_ms(self) -> int:
        """Return milliseconds since 1970, UTC."""
        ...

    def monotonic_s(self) -> float:
        """Return seconds that never go back, from an arbitrary start."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        return time.monotonic()


SYSTEM_CLOCK = SystemClock()
