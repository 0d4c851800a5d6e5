"""Read the text of an event's time: `YYYY-MM-DDTHH:MM:SS[.f{1,9}]Z`, UTC, years 1970 to 9999, truncated to milliseconds.

Both memos fill themselves, so a known text costs one dict look-up: the second is the first 19 characters, and events come by
time, so few are in use at once; the rest has 1,000 canonical forms. A memo of every millisecond of a minute would not stay in
the processor's caches, which costs more than what it saves.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache

SECOND_TEXT_LENGTH = 19
MINUTE_MS = 60_000
CANONICAL_LENGTH = len("2022-03-22T12:15:00.000Z")
SECONDS_REMEMBERED_MAX = 100_000
SECONDS_FORMATTED_MAX = 4_096

_FORM = "not of the form YYYY-MM-DDTHH:MM:SS[.fff]Z"
_SECOND = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)", re.ASCII)
_FRACTION = re.compile(r"(?:\.(\d{1,9}))?Z", re.ASCII)
_CANONICAL_FRACTION_LENGTH = CANONICAL_LENGTH - SECOND_TEXT_LENGTH


class Seconds(dict[str, int]):
    """Milliseconds since 1970 by the first 19 characters of an instant; raises ValueError for a text that names none."""

    def __missing__(self, text: str) -> int:
        match = _SECOND.fullmatch(text)
        if match is None:
            raise ValueError(_FORM)
        year, month, day, hour, minute, second = map(int, match.groups())
        if year < 1970:
            raise ValueError("before 1970")
        instant = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
        if len(self) >= SECONDS_REMEMBERED_MAX:
            self.clear()
        self[text] = result = int(instant.timestamp()) * 1000
        return result


class Fractions(dict[str, int]):
    """Milliseconds within the second by what follows the first 19 characters; remembers the canonical forms only."""

    def __missing__(self, text: str) -> int:
        match = _FRACTION.fullmatch(text)
        if match is None:
            raise ValueError(_FORM)
        result = int((match[1] or "")[:3].ljust(3, "0"))
        if len(text) == _CANONICAL_FRACTION_LENGTH:
            self[text] = result
        return result


SECONDS = Seconds()
FRACTIONS = Fractions()


def parse_instant(text: str) -> int:
    """Return milliseconds since 1970 of an event time.

    Raises:
        ValueError: the text is not of the form, names no day of the calendar or lies before 1970.

    >>> parse_instant("2022-03-01T00:00:01.5009Z") - parse_instant("2022-03-01T00:00:01Z")
    500
    """
    return SECONDS[text[:SECOND_TEXT_LENGTH]] + FRACTIONS[text[SECOND_TEXT_LENGTH:]]


def format_instant(at_ms: int) -> str:
    """Return the canonical text, with three digits of fraction.

    >>> format_instant(1_646_092_801_500)
    '2022-03-01T00:00:01.500Z'
    """
    seconds, milliseconds = divmod(at_ms, 1000)
    return f"{_second_text(seconds)}.{milliseconds:03d}Z"


@lru_cache(maxsize=SECONDS_FORMATTED_MAX)
def _second_text(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"


def format_minute(minute: int) -> str:
    """Return the text of a minute's start, without a zone, as queries and answers write it.

    >>> format_minute(27_434_880)
    '2022-03-01T00:00:00'
    """
    return f"{datetime.fromtimestamp(minute * 60, UTC):%Y-%m-%dT%H:%M:%S}"
