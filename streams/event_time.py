"""Read the text of an event's time: `YYYY-MM-DDTHH:MM:SS[.f{1,9}]Z`, UTC, years 1970 to 9999, truncated to milliseconds.

Both memos fill themselves, so a known text costs one dict look-up: the minute is the first 16 characters, the rest has at
most 60,000 canonical forms. Nothing else of the format repeats often enough to be worth remembering.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

MINUTE_TEXT_LENGTH = 16
MINUTE_MS = 60_000
CANONICAL_LENGTH = len("2022-03-22T12:15:00.000Z")
MINUTES_REMEMBERED_MAX = 100_000

_MINUTE = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d)", re.ASCII)
_REST = re.compile(r":([0-5]\d)(?:\.(\d{1,9}))?Z", re.ASCII)
_CANONICAL_REST_LENGTH = CANONICAL_LENGTH - MINUTE_TEXT_LENGTH


class Minutes(dict[str, int]):
    """Minutes since 1970 by the first 16 characters of an instant; raises ValueError for a text that names none."""

    def __missing__(self, text: str) -> int:
        match = _MINUTE.fullmatch(text)
        if match is None:
            raise ValueError("not of the form YYYY-MM-DDTHH:MM:SS[.fff]Z")
        year, month, day, hour, minute = map(int, match.groups())
        if year < 1970:
            raise ValueError("before 1970")
        seconds = datetime(year, month, day, hour, minute, tzinfo=UTC).timestamp()
        if len(self) >= MINUTES_REMEMBERED_MAX:
            self.clear()
        self[text] = result = int(seconds) // 60
        return result


class Rests(dict[str, int]):
    """Milliseconds within the minute by what follows the first 16 characters; remembers the canonical forms only."""

    def __missing__(self, text: str) -> int:
        match = _REST.fullmatch(text)
        if match is None:
            raise ValueError("not of the form YYYY-MM-DDTHH:MM:SS[.fff]Z")
        result = int(match[1]) * 1000 + int((match[2] or "")[:3].ljust(3, "0"))
        if len(text) == _CANONICAL_REST_LENGTH:
            self[text] = result
        return result


MINUTES = Minutes()
RESTS = Rests()


def parse_instant(text: str) -> int:
    """Return milliseconds since 1970 of an event time.

    Raises:
        ValueError: the text is not of the form, names no day of the calendar or lies before 1970.

    >>> parse_instant("2022-03-01T00:00:01.5009Z") - parse_instant("2022-03-01T00:00:01Z")
    500
    """
    return MINUTES[text[:MINUTE_TEXT_LENGTH]] * MINUTE_MS + RESTS[text[MINUTE_TEXT_LENGTH:]]


def format_instant(at_ms: int) -> str:
    """Return the canonical text, with three digits of fraction.

    >>> format_instant(1_646_092_801_500)
    '2022-03-01T00:00:01.500Z'
    """
    seconds, milliseconds = divmod(at_ms, 1000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{milliseconds:03d}Z"


def format_minute(minute: int) -> str:
    """Return the text of a minute's start, without a zone, as queries and answers write it.

    >>> format_minute(27_434_880)
    '2022-03-01T00:00:00'
    """
    return f"{datetime.fromtimestamp(minute * 60, UTC):%Y-%m-%dT%H:%M:%S}"
