"""Load the statements of `queries.sql` and `events.sql` by name."""

from __future__ import annotations

from pathlib import Path

from psycopg import sql

from streams.statements import Statements, column_names, parse_statements, table_name

__all__ = ["EVENTS_FILE", "QUERIES_FILE", "column_names", "event_query", "parse_queries", "query", "table_name"]

QUERIES_FILE = Path(__file__).with_name("queries.sql")
EVENTS_FILE = Path(__file__).with_name("events.sql")
parse_queries = parse_statements
_STATEMENTS = Statements(QUERIES_FILE)
event_query = Statements(EVENTS_FILE).query


def query(name: str, **names: sql.Composable) -> sql.Composed:
    """Return a statement with the names of tables and columns put in for its `{…}`.

    Raises:
        KeyError: there is no such statement.
    """
    return _STATEMENTS.query(name, **names)
