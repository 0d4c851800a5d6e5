"""Write answers as CSV, so that a spreadsheet opens them and runs nothing. Pure."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

HARMFUL = ("=", "+", "-", "@", "\t", "\r")
"""A text that begins so is a formula to some spreadsheets."""
CONTENT_TYPE = "text/csv; charset=utf-8"


def render_csv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    r"""Return the text of a table, its heading first; numbers as they are, None as nothing.

    >>> render_csv(["key", "count"], [["=1+1", -2], ['a "b", c', None]])
    b'key,count\r\n\'=1+1,-2\r\n"a ""b"", c",\r\n'
    """
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows([_cell(value) for value in row] for row in rows)
    return text.getvalue().encode()


def file_name(*parts: str) -> str:
    """Return a name of letters, digits, points and hyphens.

    >>> file_name("tally", "top", "2026-03-01T00:00:00Z")
    'tally-top-2026-03-01T000000Z.csv'
    """
    kept = "-".join(parts).replace(":", "")
    return "".join(each if each.isascii() and (each.isalnum() or each in "-.") else "_" for each in kept) + ".csv"


def _cell(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(HARMFUL):
        return "'" + value
    return value
