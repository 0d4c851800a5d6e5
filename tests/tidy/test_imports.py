"""What import-linter's contracts (pyproject.toml) cannot say."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tidy.tree import ROOT, SOURCE_FOLDERS, name_of, python_files, tree_of

LOAD_MAY_SEE = {
    "streams.schemas",
    "streams.topics",
    "streams.event_time",
    "streams.settings",
    "streams.errors",
    "streams.clock",
}
"""The load generator is a producer: what one must install. `clock` because the time is asked there only."""


def imports_of(path: Path) -> Iterator[str]:
    """Yield the dotted name of every module that a file imports, inside functions too."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            is_package = (ROOT / node.module.replace(".", "/") / "__init__.py").exists()
            yield from ((f"{node.module}.{alias.name}" for alias in node.names) if is_package else (node.module,))


def test_load_sees_only_what_a_producer_would() -> None:
    """A generator that shares the worker's code would share its mistakes."""
    own = {name for path in python_files() if path.is_relative_to(ROOT / "load") for name in imports_of(path)}
    seen = {name for name in own if name.split(".")[0] in (*SOURCE_FOLDERS, "pipeline") and not name.startswith("load")}
    assert seen <= LOAD_MAY_SEE


def test_streams_package_imports_nothing() -> None:
    """An import there would make a client load Faust."""
    assert not list(imports_of(ROOT / "streams" / "__init__.py"))


def test_pure_modules_load_no_framework() -> None:
    """The proof by doing: also what is imported late or by name counts."""
    loaded = "{'faust', 'mode', 'aiokafka', 'rocksdict'} & set(sys.modules)"
    code = f"import sys, streams.codecs, streams.settings, tables.fold, tables.profiles; sys.exit(' '.join({loaded}) or 0)"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize("path", [path for path in python_files() if "tests" not in path.parts], ids=name_of)
def test_only_the_clock_asks_the_time(path: Path) -> None:
    """Code that asks the system cannot be given another clock; `perf_counter` measures and is free."""
    if name_of(path) == "streams/clock.py":
        return
    asked = {ast.unparse(node) for node in ast.walk(tree_of(path)) if isinstance(node, ast.Attribute)}
    assert not asked & {
        "time.time",
        "time.time_ns",
        "time.monotonic",
        "datetime.now",
        "datetime.utcnow",
        "datetime.datetime.now",
    }


@pytest.mark.parametrize("path", [path for path in python_files() if "tests" not in path.parts], ids=name_of)
def test_only_settings_reads_tally_variables(path: Path) -> None:
    """A setting that is read elsewhere is checked by nobody."""
    if name_of(path) == "streams/settings.py":
        return
    reads = [ast.unparse(node) for node in ast.walk(tree_of(path)) if is_read_of_the_environment(node)]
    assert not [read for read in reads if "TALLY_" in read]


def is_read_of_the_environment(node: ast.AST) -> bool:
    """Say whether an expression is `os.environ[…]`, not assigned to, `os.environ.get(…)` or `os.getenv(…)`."""
    if isinstance(node, ast.Subscript):
        return ast.unparse(node.value) == "os.environ" and isinstance(node.ctx, ast.Load)
    return isinstance(node, ast.Call) and ast.unparse(node.func) in ("os.environ.get", "os.getenv")
