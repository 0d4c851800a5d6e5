"""Load SQL from files, by name: each statement stands under `-- name: …`, explained by the comments below that."""

from __future__ import annotations

import re
from pathlib import Path

from psycopg import sql

_HEADER = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


def parse_statements(text: str) -> dict[str, str]:
    """Return statements by name, without their comments.

    Raises:
        ValueError: two statements have one name, or one is empty.

    >>> parse_statements("-- name: one\\n-- Why.\\nSELECT 1;\\n")
    {'one': 'SELECT 1'}
    """
    _, *parts = _HEADER.split(text)
    statements: dict[str, str] = {}
    for name, body in zip(parts[::2], parts[1::2], strict=True):
        lines = [line for line in body.splitlines() if line.strip() and not line.lstrip().startswith("--")]
        statement = "\n".join(lines).strip().rstrip(";")
        if name in statements or not statement:
            raise ValueError(f"statement {name!r} stands twice or is empty")
        statements[name] = statement
    return statements


class Statements:
    """The statements of one file."""

    def __init__(self, path: Path) -> None:
        self._texts = parse_statements(path.read_text(encoding="utf-8"))

    def query(self, name: str, **names: sql.Composable) -> sql.Composed:
        """Return a statement with names of tables and columns, or parts, put in for its `{…}`.

        Raises:
            KeyError: there is no such statement.
        """
        return sql.SQL(self._texts[name]).format(**names)


def table_name(name: str) -> sql.Identifier:
    """Return the quoted name of a table of the schema."""
    return sql.Identifier("tally", name)


def column_names(names: tuple[str, ...]) -> sql.Composed:
    """Return quoted column names, separated by commas."""
    return sql.SQL(", ").join(map(sql.Identifier, names))
