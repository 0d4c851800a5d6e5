"""The package itself: what it needs, what it loads, where it runs, and that it is a wheel of its own."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.client.recording import Recorder, Seen
from tests.support.stack_fixtures import REQUIRE_VARIABLE
from tests.tidy.tree import ROOT

CLIENT = ROOT / "client"
SOURCES = sorted((CLIENT / "tally_client").glob("*.py"))
OLDEST = "python3.9"


EVERYTHING = Path(__file__).parent / "programs" / "everything.py"
EVENTS, TRANSACTIONS = 9, 4


def ran(*command: str | Path, path: str = str(CLIENT)) -> subprocess.CompletedProcess[str]:
    """Run a command; where pyenv keeps old Pythons, its shims find the oldest."""
    environment = {**os.environ, "PYTHONPATH": path, "PYENV_VERSION": OLDEST.removeprefix("python")}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=environment)


class Served(Recorder):
    """A collector that takes transactions of Labs too."""

    def __init__(self) -> None:
        super().__init__()
        self.transactions: list[dict[str, Any]] = []
        self.routes["/analytics/"] = self._take

    def _take(self, seen: Seen) -> dict[str, int]:
        self.transactions.append(json.loads(seen.raw))
        return {"status": 200}

    def has_everything(self) -> bool:
        """Say whether all that the program sends came, once."""
        keys = {each["key"].rpartition(".")[2] for txn in self.transactions for each in txn["data"]}
        assert keys == {"double", "later", "get"}
        return (len(self.kept), len(self.events), len(self.transactions)) == (EVENTS, EVENTS, TRANSACTIONS)


@pytest.fixture
def served() -> Iterator[Served]:
    collector = Served()
    with collector:
        yield collector


def skip(why: str) -> None:
    if os.environ.get(REQUIRE_VARIABLE) == "1":
        pytest.fail(why)
    pytest.skip(why)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_only_the_standard_library_is_imported(path: Path) -> None:
    """No dependency of ours can clash with one of the application, and nothing of the server is needed."""
    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 9))
    for_types = {id(part) for node in ast.walk(tree) if is_for_types(node) for part in ast.walk(node)}
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and id(node) not in for_types:
            names.add(node.module or ".")
    assert {name.partition(".")[0] for name in names} <= {*sys.stdlib_module_names, "tally_client"}


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def test_importing_it_loads_nothing_else() -> None:
    """The proof by doing; what other packages hang into every start of this Python is not counted."""
    loaded = "{name.partition('.')[0] for name in sys.modules}"
    code = f"import sys; before = {loaded}; import tally_client, tally_client.labs, tally_client.recorders; "
    code += f"sys.exit(' '.join({loaded} - before - set(sys.stdlib_module_names) - {{'tally_client'}}) or 0)"
    ended = ran(sys.executable, "-c", code)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_it_runs_on_python_3_9(served: Served, tmp_path: Path) -> None:
    """P16, P17: with every client, the spool and recorders, not only imported: what a newer Python adds fails when called."""
    if shutil.which(OLDEST) is None or ran(OLDEST, "--version").returncode != 0:
        pytest.skip(f"NO {OLDEST.upper()}: only its grammar is checked")
    ended = ran(OLDEST, EVERYTHING, served.url, tmp_path / "spool")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert served.has_everything()


def test_it_is_a_wheel_of_its_own_that_works_where_nothing_else_is(served: Served, tmp_path: Path) -> None:
    """P16, P17: typed, with its license, without a dependency, its tests or the server. An empty environment runs it."""
    source = shutil.copytree(
        CLIENT, tmp_path / "client", ignore=shutil.ignore_patterns("__pycache__")
    )  # Building leaves things.
    uv = Path(sys.executable).parent / "uv"
    built = ran(uv, "build", "--quiet", "--wheel", "--out-dir", tmp_path, source)
    if built.returncode != 0:
        skip(f"NO WHEEL: it could not be built; is the package registry there? {built.stderr[-500:]}")
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.startswith("tally_client-") and wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = [archive.read(name).decode() for name in names if name.endswith("/METADATA")]
    assert {name for name in names if ".dist-info/" not in name} == {
        "tally_client/py.typed",
        *(f"tally_client/{path.name}" for path in SOURCES),
    }
    assert any(name.endswith("/LICENSE") for name in names)
    assert "Name: tally-client\n" in metadata and "Requires-Python: >=3.9\n" in metadata
    required = [line for line in metadata.splitlines() if line.startswith("Requires-Dist:")]
    assert all("extra ==" in line for line in required)
    venv.create(tmp_path / "empty", symlinks=True)
    python = tmp_path / "empty" / "bin" / "python"
    installed = ran(uv, "pip", "install", "--quiet", "--offline", "--no-deps", "--python", python, wheel, path="")
    assert (installed.returncode, installed.stderr) == (0, "")
    ended = ran(python, shutil.copy(EVERYTHING, tmp_path), served.url, tmp_path / "spool", path="")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert served.has_everything()
