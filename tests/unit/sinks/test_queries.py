"""The file of statements: each is named once and explained."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sinks.queries import EVENTS_FILE, QUERIES_FILE, parse_queries

FILES = {"query": QUERIES_FILE, "event_query": EVENTS_FILE}
each_file = pytest.mark.parametrize(("function", "path"), FILES.items(), ids=FILES)


@each_file
def test_every_statement_is_used(function: str, path: Path) -> None:
    """A statement that nobody asks for is dead."""
    code = "".join(each.read_text(encoding="utf-8") for each in QUERIES_FILE.parent.glob("*.py"))
    names = parse_queries(path.read_text(encoding="utf-8"))
    assert {name for name in names if not re.search(rf'(?<!\w){function}\("{name}"', code)} == set()


@each_file
def test_file_holds_each_statement_once(function: str, path: Path) -> None:
    """The loader would take the second of two without a word."""
    text = path.read_text(encoding="utf-8")
    names = re.findall(r"^-- name: (\w+)$", text, re.MULTILINE)
    assert len(names) == len(set(names)) == len(parse_queries(text)) > 10
    with pytest.raises(ValueError, match="twice"):
        parse_queries("-- name: a\nSELECT 1;\n-- name: a\nSELECT 2;\n")
