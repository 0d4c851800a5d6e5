"""Load the statements of `queries.sql` by name."""

from __future__ import annotations

import re
from pathlib import Path

from psycopg import sql

QUERIES_FILE = Path(__file__).with_name("queries.sql")
_HEADER = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


def parse_queries(text: str) -> dict[str, str]:
    """Return statements by name, without their comments.

    Raises:
        ValueError: two statements have one name, or one is empty.

    >>> parse_queries("-- name: one\\n-- Why.\\nSELECT 1;\\n")
    {'one': 'SELECT 1'}
    """
    _, *parts = _HEADER.split(text)
    queries: dict[str, str] = {}
    for name, body in zip(parts[::2], parts[1::2], strict=True):
        lines = [line for line in body.splitlines() if line.strip() and not line.lstrip().startswith("--")]
        statement = "\n".join(lines).strip().rstrip(";")
        if name in queries or not statement:
            raise ValueError(f"statement {name!r} stands twice or is empty")
        queries[name] = statement
    return queries


_QUERIES = parse_queries(QUERIES_FILE.read_text(encoding="utf-8"))


def query(name: str, **names: sql.Composable) -> sql.Composed:
    """Return a statement with the names of tables and columns put in for its `{…}`.

    Raises:
        KeyError: there is no such statement.
    """
    return sql.SQL(_QUERIES[name]).format(**names)


def table_name(name: str) -> sql.Identifier:
    """Return the quoted name of a table of the schema."""
    return sql.Identifier("tally", name)


def column_names(names: tuple[str, ...]) -> sql.Composed:
    """Return quoted column names, separated by commas."""
    return sql.SQL(", ").join(map(sql.Identifier, names))
