"""Remember over a restart why a worker stopped itself: the process that knew is gone before anybody could ask it."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from streams.clock import Clock
from streams.errors import (
    DeadLetterLimitError,
    DeadLetterWriteError,
    KafkaUnavailableError,
    LostEventsError,
    SettingsError,
    StalledError,
    StoreUnavailableError,
)

REASONS = {
    DeadLetterLimitError: "dead_letter_limit",
    DeadLetterWriteError: "dead_letter_write",
    KafkaUnavailableError: "kafka",
    LostEventsError: "lost_events",
    SettingsError: "settings",
    StalledError: "stalled",
    StoreUnavailableError: "disk",
}
"""The first that fits; everything else is a bug."""
BUG = "bug"


def reason_of(error: BaseException) -> str:
    """Return the label of an error that ends a worker.

    >>> reason_of(DeadLetterWriteError())
    'dead_letter_write'
    """
    return next((reason for kind, reason in REASONS.items() if isinstance(error, kind)), BUG)


class LastStops:
    """A small file beside the tables: of each reason, when it last ended this worker. Lost with the disk, and nothing else."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock

    def note(self, error: BaseException) -> None:
        """Write down that *error* ends the process; a disk that refuses is no reason to stay."""
        with suppress(OSError):
            stops = self.read() | {reason_of(error): self._clock.now_ms() / 1000}
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text(json.dumps(stops), encoding="utf-8")

    def read(self) -> dict[str, float]:
        """Return the Unix time (seconds) of the last stop by reason; nothing where the file is missing or damaged."""
        try:
            stops = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        known = {*REASONS.values(), BUG}
        return {reason: float(at_s) for reason, at_s in stops.items() if reason in known} if isinstance(stops, dict) else {}
