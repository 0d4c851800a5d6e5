"""Measure how late the gateway's event loop is: something that blocks it delays every request."""

from __future__ import annotations

import asyncio
from collections import deque

from streams.clock import SYSTEM_CLOCK, Clock

PROBE_S = 0.05
PROBES_REMEMBERED = 200
"""Ten seconds of them: a scrape every 15 s misses little, and a peak does not stay for long."""


class LoopLag:
    """How late timers of the loop fired lately."""

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._late_s: deque[float] = deque(maxlen=PROBES_REMEMBERED)

    def seconds(self) -> float:
        """Return by how much the latest of the remembered probes was late; 0 without one."""
        return max(self._late_s, default=0.0)

    async def run(self) -> None:
        """Probe until cancelled."""
        while True:
            due_s = self._clock.monotonic_s() + PROBE_S
            await asyncio.sleep(PROBE_S)
            self._late_s.append(max(0.0, self._clock.monotonic_s() - due_s))
