"""Limit how often one client may ask: the generic cell rate algorithm, one number a client."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from math import ceil

CLIENTS_MAX = 100_000
"""Clients remembered; past it those are forgotten that have not asked for longest."""
ROUNDING_S = 1e-6
BURST_S = 1.0
"""What a client may ask in a second, it may ask at once."""


class Rates:
    """What each client may ask, by its address."""

    def __init__(self, per_second: float, *, clock: Callable[[], float]) -> None:
        """Limit to *per_second* requests; *clock* tells monotonic seconds."""
        self._step_s = 1 / per_second
        self._ahead_s = max(0.0, BURST_S - self._step_s)
        self._clock = clock
        self._free_at_s: OrderedDict[str, float] = OrderedDict()

    def wait_s(self, client: tuple[str, int] | None) -> int:
        """Count a request and return 0; or, when there were too many, return after how many whole seconds to ask again."""
        address = client[0] if client else ""
        now_s = self._clock()
        free_at_s = max(self._free_at_s.get(address, 0.0), now_s)
        early_s = free_at_s - now_s - self._ahead_s
        if early_s > ROUNDING_S:
            return ceil(early_s)
        self._free_at_s[address] = free_at_s + self._step_s
        self._free_at_s.move_to_end(address)
        if len(self._free_at_s) > CLIENTS_MAX:
            self._free_at_s.popitem(last=False)
        return 0
