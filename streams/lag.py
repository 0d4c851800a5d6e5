"""Tell how old what waits is, from what a worker sees in passing: no request to Kafka, no clock of a producer. Pure."""

from __future__ import annotations

from typing import NamedTuple

SAMPLES_MAX = 256
"""When there are more, every second one goes: an outage of a day is then told to a few minutes."""


class Sample(NamedTuple):
    """An end of the log, and when it was first seen (seconds)."""

    end: int
    seen_at_s: float


class LagClock:
    """Since when the next record of a partition has been waiting."""

    def __init__(self) -> None:
        self._samples: list[Sample] = []

    def seconds(self, position: int, end: int, *, now_s: float, arrived_at_s: float | None = None) -> float:
        """Return the age of the record at *position*; 0 when that is the log's end.

        Args:
            position: offset before which everything is done.
            end: offset after the log's last record.
            arrived_at_s: when Kafka took the record at *position*, where somebody has read it. Else the age is that of the
                first sight of it: too small by the time between two calls, or by all that was before the process began.
        """
        self._note(end, now_s)
        self._samples = [sample for sample in self._samples if sample.end > position]
        if position >= end:
            return 0.0
        since_s = self._samples[0].seen_at_s if arrived_at_s is None else arrived_at_s
        return max(0.0, now_s - since_s)

    def _note(self, end: int, now_s: float) -> None:
        if not self._samples or end > self._samples[-1].end:
            self._samples.append(Sample(end, now_s))
        if len(self._samples) > SAMPLES_MAX:
            self._samples = self._samples[::2]


class DueClock:
    """Since when a commit has been due that was not made."""

    def __init__(self) -> None:
        self._committed = -1
        self._since_s: float | None = None

    def seconds(self, committed: int, possible: int, *, now_s: float) -> float:
        """Return for how long the commit has been at *committed*, although it could be at *possible*; 0 when it is there."""
        if possible <= committed:
            self._since_s = None
        elif self._since_s is None or committed != self._committed:
            self._since_s = now_s
        self._committed = committed
        return 0.0 if self._since_s is None else now_s - self._since_s
