"""Text for COPY: pure here; the round trip through Postgres is in tests/integration/test_sinks_postgres.py."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sinks.copy_text import (
    NULL,
    REFUSED_LINES_MAX,
    bisect_refused,
    lines_of,
    render_block,
    render_line,
    render_lines,
    render_minute,
)
from streams.errors import DeadLetterLimitError
from tables.blocks import decode_block, encode_block, pack

HOSTILE = st.text(alphabet=st.sampled_from("ab\\\t\n\r\x0b\x0c\x1c\x85\u2028N.%{é😀 "), max_size=8)
UNESCAPE = {"\\\\": "\\", "\\t": "\t", "\\n": "\n", "\\r": "\r"}


def parse_line(line: str) -> list[str | None]:
    """Return the values of a line as Postgres documents the format, by other means than the renderer's."""
    values: list[str | None] = []
    for field in line.removesuffix("\n").split("\t"):
        value, rest = "", field
        while rest:
            step = 2 if rest[0] == "\\" else 1
            value += UNESCAPE[rest[:step]] if step == 2 and field != NULL else rest[:step]
            rest = rest[step:]
        values.append(None if field == NULL else value)
    return values


@given(st.lists(st.none() | HOSTILE | st.integers(), min_size=1, max_size=5))
def test_parsing_inverts_rendering_of_a_line(values: list[Any]) -> None:
    """A value can never become a separator, a NULL or another value."""
    line = render_line(values)
    assert line.count("\n") == 1
    assert parse_line(line) == [None if value is None else str(value) for value in values]


@given(st.lists(st.tuples(st.none() | HOSTILE, HOSTILE | st.integers(), st.just("usual")), max_size=4))
def test_lines_together_are_those_of_each_row(rows: list[tuple[Any, ...]]) -> None:
    """One hostile value among many usual ones must not slip through."""
    assert render_lines(rows) == [render_line(row) for row in rows]


@given(st.dictionaries(st.tuples(HOSTILE, HOSTILE), st.tuples(st.integers(1, 4096), st.integers(-(2**31), 2**31)), min_size=1))
def test_block_is_rendered_as_its_cells_are(cells: dict[tuple[str, str], tuple[int, int]]) -> None:
    """The fast way, by columns, writes the same as a row at a time."""
    block = decode_block(encode_block({key: pack(*values) for key, values in cells.items()}, sums=1))
    prefix = ("2026-03-01", 3, 7)
    text = render_block(prefix, block)
    assert text == "".join(render_line((*prefix, *key, *values)) for key, values in cells.items())
    assert len(lines_of(text)) == len(cells)


@pytest.mark.parametrize(
    ("minute", "text"),
    [(0, "1970-01-01 00:00:00+00"), (27_434_881, "2022-03-01 00:01:00+00"), (2**32 - 2, "10136-02-16 04:14+00")],
)
def test_minute_is_written_as_postgres_reads_it(minute: int, text: str) -> None:
    """A block's key has room for years that Python's datetime has not."""
    assert render_minute(minute) == text


@given(st.sets(st.integers(0, 99)), st.integers(0, 100))
def test_bisection_finds_exactly_the_refused_lines(bad: set[int], count: int) -> None:
    """Every other line is written once, wherever the bad ones lie."""
    written: list[int] = []

    def attempt(first: int, last: int) -> None:
        if bad.intersection(range(first, last)):
            raise psycopg.errors.CharacterNotInRepertoire
        written.extend(range(first, last))

    refused = bisect_refused(count, attempt)
    assert set(refused) == {line for line in bad if line < count}
    assert written == [line for line in range(count) if line not in bad]


@pytest.mark.parametrize("error", [psycopg.errors.DiskFull, psycopg.OperationalError, psycopg.errors.CheckViolation])
def test_bisection_gives_up_at_an_error_that_is_no_rows_fault(error: type[psycopg.Error]) -> None:
    """A full disk, a lost connection or a missing partition must not make dead letters."""

    def attempt(first: int, last: int) -> None:
        raise error

    with pytest.raises(error):
        bisect_refused(10, attempt)


def test_bisection_stops_where_everything_is_refused() -> None:
    """A column of another type refuses every row: that is no reason to drain a topic into the dead letters."""

    def attempt(first: int, last: int) -> None:
        raise psycopg.errors.InvalidTextRepresentation

    with pytest.raises(DeadLetterLimitError):
        bisect_refused(10 * REFUSED_LINES_MAX, attempt)
