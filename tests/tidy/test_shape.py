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
    functions_of,
    name_of,
    python_files,
    source_files,
    text_files,
    tree_of,
)

FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 40
COUNTED_SUFFIXES = (".py", ".sql", ".js", ".css", ".html")
VAGUE = {"utils", "util", "helpers", "helper", "common", "misc"}

each_python_file = pytest.mark.parametrize("path", python_files(), ids=name_of)


def test_the_tree_is_found() -> None:
    """Every test here would pass on an empty list."""
    assert len(source_files()) > 30
    assert Path(__file__) in python_files()
    assert ROOT / "faust.conf" in text_files()


@pytest.mark.parametrize("path", [path for path in text_files() if path.suffix in COUNTED_SUFFIXES], ids=name_of)
def test_file_has_at_most_400_lines(path: Path) -> None:
    """One idea a file; more lines are two."""
    assert len(path.read_text(encoding="utf-8").splitlines()) <= FILE_LINES_MAX


@each_python_file
def test_function_has_at_most_40_lines(path: Path) -> None:
    """A function is read at one look; its docstring does not count."""
    long = {function.name: body_lines(function) for function in functions_of(path) if body_lines(function) > FUNCTION_LINES_MAX}
    assert not long


@each_python_file
def test_file_says_what_it_is(path: Path) -> None:
    """The first line of the docstring is the file's line in a table of contents; an empty file marks a folder of tests."""
    if path.stat().st_size == 0 and "tests" in path.parts:
        return
    docstring = ast.get_docstring(tree_of(path)) or ""
    assert docstring.partition("\n")[0].strip(), "no docstring"


@pytest.mark.parametrize("folder", SOURCE_FOLDERS)
def test_folder_is_a_package(folder: str) -> None:
    """A folder without `__init__.py` is invisible to the import contracts."""
    assert (ROOT / folder / "__init__.py").is_file()


def test_no_name_is_vague() -> None:
    """`utils` is where things go that nobody finds again."""
    parts = {part for path in text_files() for part in (*path.relative_to(ROOT).parts[:-1], path.stem)}
    assert not VAGUE & parts


@each_python_file
def test_nothing_prints(path: Path) -> None:
    """Logs have levels and a format; what a command says to its user goes through one place of its own."""
    calls = [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call)]
    assert not [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]


@each_python_file
def test_what_is_left_to_do_has_an_issue(path: Path) -> None:
    """A note without an issue is never read again."""
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline)
    comments = [token for token in tokens if token.type == tokenize.COMMENT]
    bare = re.compile(r"FIX[M]E|X{3}|TOD[O](?!\(#\d+\):)")
    assert not [f"line {token.start[0]}: {token.string}" for token in comments if bare.search(token.string)]


def is_started_by_name(path: Path) -> bool:
    """Say whether a file is one that a program looks for: `python -m`, the worker, Alembic."""
    return path.name in ("__init__.py", "__main__.py", "env.py") or path.parent == ROOT or "versions" in path.parts


@pytest.mark.parametrize("path", [path for path in source_files() if not is_started_by_name(path)], ids=name_of)
def test_module_is_used(path: Path) -> None:
    """Code that nothing imports or starts is dead, and only its tests keep it."""
    *parents, module = path.relative_to(ROOT).with_suffix("").parts
    package = r"\.".join(parents)
    used = re.compile(rf"\b{package}[./]{module}\b|from {package} import \(?[\w\s,]*\b{module}\b")
    others = [
        other for other in (*source_files(), ROOT / "Makefile", ROOT / "pyproject.toml") if other != path and other.exists()
    ]
    assert any(used.search(other.read_text(encoding="utf-8")) for other in others)
