"""Hold back log lines alike: an outage says the same a hundred times a second, and hides what else is said."""

from __future__ import annotations

import logging

from streams.clock import SYSTEM_CLOCK, Clock

REPEATS_MAX = 60
"""Lines alike in one window; what comes beyond is counted."""
REPEATS_WINDOW_S = 60.0
KINDS_MAX = 1_000
"""Kinds of lines that are told apart in one window: more would only be memory."""
EVERY_LINE = frozenset({"gateway.request_log"})
"""Loggers that were asked for every line."""

Kind = tuple[str, int, str]
"""Lines alike: logger, level, message before its values are put in."""


class RepeatLimit:
    """Lets the first lines alike of a window through, counts the rest, and says how many there were when the window is over.

    What is CRITICAL, and what a logger was asked to write line by line, always passes.
    """

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._since_s = clock.monotonic_s()
        self._counts: dict[Kind, int] = {}

    def passes(self, record: logging.LogRecord) -> bool:
        """Count a line and return whether it is to be written."""
        if record.levelno >= logging.CRITICAL or record.name in EVERY_LINE:
            return True
        kind = (record.name, record.levelno, str(record.msg))
        if kind not in self._counts and len(self._counts) >= KINDS_MAX:
            return True
        self._counts[kind] = self._counts.get(kind, 0) + 1
        return self._counts[kind] <= REPEATS_MAX

    def summaries(self, *, at_once: bool = False) -> list[logging.LogRecord]:
        """Return a line for each kind of which some were held back, and begin a new window; nothing before it is over."""
        if not at_once and self._clock.monotonic_s() - self._since_s < REPEATS_WINDOW_S:
            return []
        counts, self._counts, self._since_s = self._counts, {}, self._clock.monotonic_s()
        return [_summary(kind, count - REPEATS_MAX) for kind, count in counts.items() if count > REPEATS_MAX]


def _summary(kind: Kind, held_back: int) -> logging.LogRecord:
    name, level, message = kind
    values = {"name": name, "levelno": level, "levelname": logging.getLevelName(level), "repeats": held_back}
    return logging.makeLogRecord(values | {"msg": "held back %d more lines like: %s", "args": (held_back, message)})
