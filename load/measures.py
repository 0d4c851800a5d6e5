"""Count what came back, by kind of request: latencies from the due time, and errors by cause."""

from __future__ import annotations

from collections import Counter

from load.client import NO_CONNECTION, TIMED_OUT
from load.histogram import Histogram

KINDS = ("tags", "profiles", "aggregates")
QUANTILES = (0.5, 0.99, 0.999)
WRONG, LATE = "wrong", "late"
"""Causes: an answer of success that is not the right one, and one that was not there in time, however right."""
EXAMPLES_MAX = 5
EXAMPLE_LENGTH_MAX = 500


class Measures:
    """What was measured: since the start, and since the last line.

    Attributes:
        whole: latencies of all requests by kind, seconds.
        errors: by kind and cause; whatever is neither WRONG nor LATE was dropped, the cause says how.
        examples: the first wrong answers, for people.
    """

    def __init__(self) -> None:
        self.whole = {kind: Histogram() for kind in KINDS}
        self.errors: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
        self.examples: list[str] = []
        self._recent = {kind: Histogram() for kind in KINDS}

    def add(self, kind: str, status: int, *, latency_s: float, right: bool, timeout_s: float) -> None:
        """Count one request; an answer after its time limit is an error, however right."""
        self._recent[kind].add(latency_s)
        if not right or latency_s > timeout_s:
            self.errors[kind][_cause(status, right=right)] += 1

    def show(self, target: str, body: bytes) -> None:
        """Remember a wrong answer, if it is one of the first."""
        if len(self.examples) < EXAMPLES_MAX:
            self.examples.append(f"{target}: {body.decode(errors='replace')[:EXAMPLE_LENGTH_MAX]}")

    def take_recent(self) -> dict[str, Histogram]:
        """Return what was counted since the last call, which begins anew."""
        recent, self._recent = self._recent, {kind: Histogram() for kind in KINDS}
        for kind, histogram in recent.items():
            self.whole[kind].merge(histogram)
        return recent

    def right(self, kind: str) -> int:
        """Return how many requests were answered right and in time."""
        return self.whole[kind].count - self.errors[kind].total()

    def dropped(self, kind: str) -> int:
        """Return how many were answered with an error, or not at all because there was no connection."""
        return self.errors[kind].total() - self.errors[kind][WRONG] - self.errors[kind][LATE]

    @property
    def error_count(self) -> int:
        """Requests that were not answered right and in time."""
        return sum(counter.total() for counter in self.errors.values())


def _cause(status: int, *, right: bool) -> str:
    if status == TIMED_OUT or right:  # right, and an error all the same: it came too late
        return LATE
    if status == NO_CONNECTION:
        return "no connection"
    return WRONG if status in (200, 204) else f"status {status}"
