"""What import-linter's contracts (pyproject.toml) cannot say."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.tidy.tree import ROOT, SOURCE_FOLDERS, breaking, name_of, nodes_of, python_files

LOAD_MAY_SEE = {
    "streams.schemas",
    "streams.topics",
    "streams.event_time",
    "streams.settings",
    "streams.errors",
    "streams.clock",
}
"""The load generator is a producer: what one must install. `clock` because the time is asked there only."""

ASKS_THE_TIME = {"time.time", "time.time_ns", "time.monotonic", "datetime.now", "datetime.utcnow", "datetime.datetime.now"}
LAST_NAMES = {name.rpartition(".")[2] for name in ASKS_THE_TIME}


def imports_of(path: Path) -> Iterator[str]:
    """Yield the dotted name of every module that a file imports, inside functions too."""
    for node in nodes_of(path):
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


def files_but(*names: str) -> list[Path]:
    """Return every Python file but the tests, and but those that are named."""
    return [path for path in python_files() if "tests" not in path.parts and name_of(path) not in names]


def test_only_the_clock_asks_the_time() -> None:
    """Code that asks the system cannot be given another clock; `perf_counter` measures and is free."""
    but = ("streams/clock.py", "client/tally_client/clock.py")
    assert breaking(files_but(*but), lambda path: written_of(path, ast.Attribute) & ASKS_THE_TIME) == {}


def written_of(path: Path, *kinds: type[ast.Attribute | ast.Subscript | ast.Call]) -> set[str]:
    """Return how expressions of these kinds are written."""
    return {ast.unparse(node) for node in nodes_of(path) if isinstance(node, kinds) and may_ask(node)}


def may_ask(node: ast.AST) -> bool:
    """Say whether an expression's last name is one that the rules are about; the others need not be written out."""
    match node:
        case ast.Attribute(attr=name):
            return name in LAST_NAMES
        case ast.Subscript(value=value, ctx=ast.Load()):
            return ast.unparse(value) == "os.environ" if isinstance(value, ast.Attribute) else False
        case ast.Call(func=ast.Attribute(attr="get" | "getenv") as asked):
            return ast.unparse(asked) in ("os.environ.get", "os.getenv")
    return False


def test_only_settings_reads_tally_variables() -> None:
    """A setting that is read elsewhere is checked by nobody."""
    assert breaking(files_but("streams/settings.py"), tally_variables_read_by) == {}


def tally_variables_read_by(path: Path) -> list[str]:
    """Return each `os.environ[…]` that is not assigned to, `os.environ.get(…)` and `os.getenv(…)` of a variable of ours."""
    return [read for read in written_of(path, ast.Subscript, ast.Call) if "TALLY_" in read]
