"""Find the files of the project and read what they declare."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE_FOLDERS = ("streams", "tables", "agents", "sinks", "views", "gateway", "dashboard", "stack", "load")
PYTHON_FOLDERS = (*SOURCE_FOLDERS, "client", "bench", "tests")
TEXT_SUFFIXES = (
    ".py",
    ".md",
    ".toml",
    ".conf",
    ".sql",
    ".yml",
    ".yaml",
    ".lock",
    ".txt",
    ".ini",
    ".html",
    ".css",
    ".js",
    ".sh",
    ".hex",
    "",
)


def source_files() -> list[Path]:
    """Return every Python file of what ships, `pipeline.py` included."""
    return [path for path in python_files() if path.parent == ROOT or path.relative_to(ROOT).parts[0] in SOURCE_FOLDERS]


def python_files() -> list[Path]:
    """Return every Python file of the project, tests included."""
    return sorted([*ROOT.glob("*.py"), *(path for folder in PYTHON_FOLDERS for path in (ROOT / folder).rglob("*.py"))])


def text_files() -> list[Path]:
    """Return every file that people write, but for what hidden folders (`.venv`, `.tally`) hold."""
    return sorted(_walk(ROOT))


def _walk(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.is_dir() and not path.name.startswith((".", "__pycache__")):
            yield from _walk(path)
        elif path.is_file() and path.suffix in TEXT_SUFFIXES:
            yield path


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(text_of(path))


@cache
def nodes_of(path: Path) -> list[ast.AST]:
    """Return every node of a file: walked once, for all rules that look at them."""
    return list(ast.walk(tree_of(path)))


def breaking(paths: Iterable[Path], faults_of: Callable[[Path], object]) -> dict[str, object]:
    """Return what is wrong by file, for those of *paths* where something is; a rule is one test, not one a file."""
    return {name_of(path): faults for path in paths if (faults := faults_of(path))}


@cache
def docs_text() -> str:
    """Return all that `docs/` says, but for the decisions: those are history."""
    pages = [path for path in (ROOT / "docs").rglob("*.md") if "decisions" not in path.parts]
    return "\n".join(map(text_of, sorted(pages)))


def functions_of(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield every function of a file, methods and inner ones too."""
    for node in nodes_of(path):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return how many lines a function has from `def` to its end, its docstring left out: that one may be long."""
    lines = (function.end_lineno or function.lineno) - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function) is None or first.end_lineno is None:
        return lines
    return lines - (first.end_lineno - first.lineno + 1)
