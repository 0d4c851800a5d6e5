"""The file of statements: each is named once and explained."""

from __future__ import annotations

import re

import pytest

from sinks.queries import QUERIES_FILE, parse_queries

TEXT = QUERIES_FILE.read_text(encoding="utf-8")


def test_every_statement_is_used() -> None:
    """A statement that nobody asks for is dead."""
    code = "".join(path.read_text(encoding="utf-8") for path in QUERIES_FILE.parent.glob("*.py"))
    assert {name for name in parse_queries(TEXT) if f'query("{name}"' not in code} == set()


def test_file_holds_each_statement_once() -> None:
    """The loader would take the second of two without a word."""
    names = re.findall(r"^-- name: (\w+)$", TEXT, re.MULTILINE)
    assert len(names) == len(set(names)) == len(parse_queries(TEXT)) > 10
    with pytest.raises(ValueError, match="twice"):
        parse_queries("-- name: a\nSELECT 1;\n-- name: a\nSELECT 2;\n")
