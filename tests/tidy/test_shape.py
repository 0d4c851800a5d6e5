"""Files and functions stay small, say what they are, and are used."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

from tests.tidy.tree import (
    ROOT,
    SOURCE_FOLDERS,
    body_lines,
    breaking,
    functions_of,
    nodes_of,
    python_files,
    source_files,
    text_files,
    text_of,
    tree_of,
)

FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 40
COUNTED_SUFFIXES = (".py", ".sql", ".js", ".css", ".html")
BARE_NOTE = re.compile(r"FIX[M]E|X{3}|TOD[O](?!\(#\d+\):)")
VAGUE = {"utils", "util", "helpers", "helper", "common", "misc"}


def test_the_tree_is_found() -> None:
    """Every test here would pass on an empty list."""
    assert len(source_files()) > 30
    assert Path(__file__) in python_files()
    assert ROOT / "faust.conf" in text_files()


def test_file_has_at_most_400_lines() -> None:
    """One idea a file; more lines are two."""
    counted = [path for path in text_files() if path.suffix in COUNTED_SUFFIXES]
    assert breaking(counted, lambda path: max(0, len(text_of(path).splitlines()) - FILE_LINES_MAX)) == {}


def test_function_has_at_most_40_lines() -> None:
    """A function is read at one look; its docstring does not count."""
    assert breaking(python_files(), long_functions_of) == {}


def long_functions_of(path: Path) -> dict[str, int]:
    lines = {function.name: body_lines(function) for function in functions_of(path)}
    return {name: count for name, count in lines.items() if count > FUNCTION_LINES_MAX}


def test_file_says_what_it_is() -> None:
    """The first line of the docstring is the file's line in a table of contents; an empty file marks a folder of tests."""
    assert breaking(python_files(), lambda path: "" if says_what_it_is(path) else "no docstring") == {}


def says_what_it_is(path: Path) -> bool:
    if not text_of(path) and "tests" in path.parts:
        return True
    docstring = ast.get_docstring(tree_of(path)) or ""
    return bool(docstring.partition("\n")[0].strip())


@pytest.mark.parametrize("folder", SOURCE_FOLDERS)
def test_folder_is_a_package(folder: str) -> None:
    """A folder without `__init__.py` is invisible to the import contracts."""
    assert (ROOT / folder / "__init__.py").is_file()


def test_no_name_is_vague() -> None:
    """`utils` is where things go that nobody finds again."""
    parts = {part for path in text_files() for part in (*path.relative_to(ROOT).parts[:-1], path.stem)}
    assert not VAGUE & parts


def test_nothing_prints() -> None:
    """Logs have levels and a format; what a command says to its user goes through one place of its own."""
    assert breaking(python_files(), prints_of) == {}


def prints_of(path: Path) -> list[int]:
    calls = [node for node in nodes_of(path) if isinstance(node, ast.Call)]
    return [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]


def test_what_is_left_to_do_has_an_issue() -> None:
    """A note without an issue is never read again."""
    assert breaking(python_files(), bare_notes_of) == {}


def bare_notes_of(path: Path) -> list[str]:
    if not BARE_NOTE.search(text_of(path)):  # neither in a comment
        return []
    tokens = tokenize.generate_tokens(io.StringIO(text_of(path)).readline)
    comments = [token for token in tokens if token.type == tokenize.COMMENT]
    return [f"line {token.start[0]}: {token.string}" for token in comments if BARE_NOTE.search(token.string)]


def is_started_by_name(path: Path) -> bool:
    """Say whether a file is one that a program looks for: `python -m`, the worker, Alembic."""
    return path.name in ("__init__.py", "__main__.py", "env.py") or path.parent == ROOT or "versions" in path.parts


def test_module_is_used() -> None:
    """Code that nothing imports or starts is dead, and only its tests keep it."""
    modules = [path for path in source_files() if not is_started_by_name(path)]
    assert breaking(modules, lambda path: "" if is_used(path) else "imported by nothing that ships") == {}


def is_used(path: Path) -> bool:
    *parents, module = path.relative_to(ROOT).with_suffix("").parts
    package = r"\.".join(parents)
    used = re.compile(rf"\b{package}[./]{module}\b|from {package} import \(?[\w\s,]*\b{module}\b")
    others = [
        other for other in (*source_files(), ROOT / "Makefile", ROOT / "pyproject.toml") if other != path and other.exists()
    ]
    return any(module in text_of(other) and used.search(text_of(other)) for other in others)
