"""Make text for COPY, and find the lines of it that Postgres refuses.

The text format: a tab between columns, a newline after each row, `\\N` for NULL; backslash, tab, newline and carriage
return in a value are escaped. Postgres reads everything else as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import psycopg
from psycopg import sql

from sinks.postgres import Remedy, remedy_of
from streams.errors import DeadLetterLimitError
from tables.blocks import Block

NULL = "\\N"
REFUSED_LINES_MAX = 1_000
"""More in one transaction mean that something upstream is broken, and a human must look before they are all put aside."""
_ESCAPED = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}
_ESCAPES = str.maketrans(_ESCAPED)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def escape(text: str) -> str:
    r"""Return a value as COPY reads it.

    >>> print(escape("a\\N\tb\n"))
    a\\N\tb\n
    """
    return text.translate(_ESCAPES)


def escape_all(texts: Sequence[str]) -> Sequence[str]:
    """Return values as COPY reads them: nearly always as they are, which four searches in all of them at once tell."""
    together = "".join(texts)
    return list(map(escape, texts)) if any(mark in together for mark in _ESCAPED) else texts


def render_line(values: Sequence[Any]) -> str:
    """Return one row; None is NULL."""
    line = "\t".join(map(str, values))
    if "\\" in line or "\n" in line or "\r" in line or None in values or line.count("\t") != len(values) - 1:
        line = "\t".join(NULL if value is None else escape(str(value)) for value in values)
    return line + "\n"


def render_lines(rows: Sequence[tuple[Any, ...]]) -> list[str]:
    """Return what `render_line` makes of each of *rows*, all of one width; usual ones cost half as much together."""
    if not rows:
        return []
    width = len(rows[0])
    line = "\t".join(["%s"] * width) + "\n"
    lines = [line % values for values in rows]
    together = "".join(lines)
    is_usual = (
        "\\" not in together
        and "\r" not in together
        and together.count("\n") == len(rows)
        and together.count("\t") == len(rows) * (width - 1)
        and not any(None in values for values in rows)
    )
    return lines if is_usual else list(map(render_line, rows))


def render_block(prefix: Sequence[Any], block: Block) -> str:
    """Return the rows of a block: *prefix*, the dimensions, the count, the sums.

    The strings of a row are those of the block's dictionaries, taken by their codes and formatted in one go: 0.26 µs a
    cell, where a row at a time costs ten times as much.
    """
    head = render_line(prefix)[:-1] + "\t"
    columns: list[list[Any]] = []
    for values, codes in block.dimensions:
        texts = np.array([f"{head}{text}\t" for text in escape_all(values)], dtype=object)
        columns.append(texts[codes].tolist())
        head = ""
    columns.extend(numbers.tolist() for numbers in (block.counts, *block.sums))
    width = len(columns)
    flat: list[Any] = [None] * (width * len(block))
    for index, column in enumerate(columns):
        flat[index::width] = column
    row = "%s" * len(block.dimensions) + "\t".join(["%d"] * (1 + len(block.sums))) + "\n"
    return row * len(block) % tuple(flat)


def render_minute(minute: int) -> str:
    """Return the text of a minute's start, as Postgres reads it; years past 9999 too.

    >>> render_minute(27_434_880)
    '2022-03-01 00:00:00+00'
    """
    try:
        return f"{_EPOCH + timedelta(minutes=minute):%Y-%m-%d %H:%M:%S}+00"
    except OverflowError:
        return f"{np.datetime64(minute, 'm')!s}+00".replace("T", " ")


def lines_of(text: str) -> list[str]:
    """Return the lines of rendered text; `splitlines` would also split at characters that a value may hold."""
    return [line + "\n" for line in text.split("\n")[:-1]]


def copy(cursor: psycopg.Cursor, statement: sql.Composed, texts: Iterable[str]) -> None:
    """Send *texts*, each of whole lines, by one COPY.

    Raises:
        psycopg.Error: Postgres refuses a line, and so all of them.
    """
    with cursor.copy(statement) as stream:
        for text in texts:
            stream.write(text)


def copy_isolated(cursor: psycopg.Cursor, statement: sql.Composed, lines: Sequence[str]) -> dict[int, psycopg.Error]:
    """Send the lines that Postgres takes, each attempt under a savepoint, and return its error by index of the others."""

    def attempt(first: int, last: int) -> None:
        with cursor.connection.transaction():
            copy(cursor, statement, ["".join(lines[first:last])])

    return bisect_refused(len(lines), attempt)


def bisect_refused(count: int, attempt: Callable[[int, int], None]) -> dict[int, psycopg.Error]:
    """Do *attempt* on ever smaller ranges [first, last) of [0, count) until each has passed or is one refused line.

    Raises:
        psycopg.Error: one that is not a row's fault.
        DeadLetterLimitError: more than `REFUSED_LINES_MAX` are refused.
    """
    refused: dict[int, psycopg.Error] = {}
    ranges = [(0, count)] if count else []
    while ranges:
        first, last = ranges.pop()
        try:
            attempt(first, last)
        except psycopg.Error as error:
            if remedy_of(error) is not Remedy.ISOLATE:
                raise
            if last - first > 1:
                middle = (first + last) // 2
                ranges += [(middle, last), (first, middle)]
                continue
            refused[first] = error
            if len(refused) > REFUSED_LINES_MAX:
                raise DeadLetterLimitError(f"postgres refuses more than {REFUSED_LINES_MAX} rows at once: {error}") from error
    return refused


def name_error(error: psycopg.Error) -> str:
    """Return the SQLSTATE and its name; the server's message may quote the row, so it is left out."""
    return f"{error.sqlstate} {type(error).__name__}"
