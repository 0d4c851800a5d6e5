"""Count what came back, by kind of request: latencies from the due time, and errors by cause."""

from __future__ import annotations

from collections import Counter

from load.client import NO_CONNECTION, TIMED_OUT
from load.histogram import Histogram

KINDS = ("tags", "profiles", "aggregates")
QUANTILES = (0.5, 0.99, 0.999)
WRONG_SHAPE = "wrong shape"


class Measures:
    """What was measured: since the start, and since the last line."""

    def __init__(self) -> None:
        self.whole = {kind: Histogram() for kind in KINDS}
        self.errors: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
        self._recent = {kind: Histogram() for kind in KINDS}

    def add(self, kind: str, status: int, *, latency_s: float, right: bool, timeout_s: float) -> None:
        """Count one request; an answer after its time limit is an error, however right."""
        self._recent[kind].add(latency_s)
        if not right or latency_s > timeout_s:
            self.errors[kind][_cause(status, right=right, late=latency_s > timeout_s)] += 1

    def take_recent(self) -> dict[str, Histogram]:
        """Return what was counted since the last call, which begins anew."""
        recent, self._recent = self._recent, {kind: Histogram() for kind in KINDS}
        for kind, histogram in recent.items():
            self.whole[kind].merge(histogram)
        return recent

    @property
    def error_count(self) -> int:
        """Requests that were not answered right and in time."""
        return sum(counter.total() for counter in self.errors.values())


def _cause(status: int, *, right: bool, late: bool) -> str:
    if status == TIMED_OUT or (right and late):
        return "timeout"
    if status == NO_CONNECTION:
        return "no connection"
    return WRONG_SHAPE if status in (200, 204) else f"status {status}"
