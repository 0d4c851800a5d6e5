"""`make`'s own set-up in a folder of its own: what goes wrong is one line, and nothing half-made is taken for whole."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOWHERE = "http://127.0.0.1:9/simple"
"""The discard port: nobody listens."""
PACKAGE = "six"
DEV_PACKAGE = "iniconfig"


def locked_lines(package: str) -> str:
    """Return what our own lock file says of a package, with its hashes."""
    text = (ROOT / "requirements-dev.lock").read_text(encoding="utf-8")
    start = text.index(f"\n{package}==") + 1
    lines = text[start:].splitlines(keepends=True)
    hashes = next(number for number, line in enumerate(lines) if not line.rstrip().endswith("\\"))
    return "".join(lines[: hashes + 1])


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder that holds no more than the set-up, a lock of one small package, and one of two for developing."""
    folder = tmp_path / "a checkout"
    (folder / "stack").mkdir(parents=True)
    shutil.copy(ROOT / "stack" / "bootstrap.py", folder / "stack")
    (folder / "requirements.lock").write_text(locked_lines(PACKAGE), encoding="utf-8")
    (folder / "requirements-dev.lock").write_text(locked_lines(PACKAGE) + locked_lines(DEV_PACKAGE), encoding="utf-8")
    return folder


def set_up(checkout: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(checkout / "stack" / "bootstrap.py"), *arguments]
    return subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=240, check=False
    )  # fmt: skip


def imports(checkout: Path, package: str = PACKAGE) -> bool:
    """Say whether the environment's own Python has the locked package."""
    command = [str(checkout / ".venv" / "bin" / "python"), "-c", f"import {package}"]
    return subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 0


@pytest.mark.timeout(600)
def test_set_up_is_whole_or_not_at_all_and_done_once(checkout: Path) -> None:
    """No network, then a package whose bytes are not the locked ones, then the right lock, twice, then a moved folder."""
    failed = set_up(checkout, PIP_INDEX_URL=NOWHERE, PIP_CONFIG_FILE=os.devnull, PIP_NO_CACHE_DIR="1")
    assert (failed.returncode, failed.stderr.count("\n")) == (1, 1)
    assert "the first set-up needs the network" in failed.stderr

    lock = checkout / "requirements.lock"
    right = lock.read_text(encoding="utf-8")
    version, _, _ = right.partition(" ")
    lock.write_text(f"{version} --hash=sha256:{'0' * 64}\n", encoding="utf-8")
    failed = set_up(checkout)
    assert (failed.returncode, failed.stderr.count("\n")) == (1, 1)
    assert "a file that does not have its locked hash" in failed.stderr
    assert not imports(checkout)

    lock.write_text(right, encoding="utf-8")
    assert set_up(checkout).returncode == 0
    assert imports(checkout)
    again = set_up(checkout, PIP_INDEX_URL=NOWHERE, UV_OFFLINE="1")
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")

    moved = checkout.rename(checkout.with_name("moved"))
    assert "setting up" in set_up(moved).stdout, "scripts of an environment hold its path"
    assert imports(moved)


def test_tools_for_developing_come_when_asked_for_and_stay(checkout: Path) -> None:
    """`make run` needs none of them; and `make run` after `make test` must not take them away, nor wait."""
    assert set_up(checkout).returncode == 0
    assert (imports(checkout), imports(checkout, DEV_PACKAGE)) == (True, False)
    assert set_up(checkout, "--dev").returncode == 0
    assert (imports(checkout), imports(checkout, DEV_PACKAGE)) == (True, True)
    again = set_up(checkout, PIP_INDEX_URL=NOWHERE, UV_OFFLINE="1")
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert imports(checkout, DEV_PACKAGE)


def test_folder_that_cannot_be_written_is_one_line(checkout: Path) -> None:
    """Somebody else's checkout, or a full disk: no trace either way."""
    (checkout / ".venv").write_text("", encoding="ascii")
    failed = set_up(checkout)
    assert (failed.returncode, failed.stderr.count("\n")) == (1, 1)
    assert "file exists" in failed.stderr


def test_linked_environment_is_left_alone(checkout: Path, tmp_path: Path) -> None:
    """Two checkouts that share one by a link would take turns in emptying it."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "kept").touch()
    (checkout / ".venv").symlink_to(theirs)
    failed = set_up(checkout)
    assert (failed.returncode, failed.stderr.count("\n")) == (1, 1)
    assert "is a link" in failed.stderr and [entry.name for entry in theirs.iterdir()] == ["kept"]


def test_python_that_is_too_old_is_told(checkout: Path) -> None:
    """The floor stands in one constant; a Python below it must say so and not fail in some import."""
    script = checkout / "stack" / "bootstrap.py"
    text = script.read_text(encoding="utf-8")
    assert "PYTHON_MIN = (3, 11)" in text
    script.write_text(text.replace("PYTHON_MIN = (3, 11)", "PYTHON_MIN = (9, 9)"), encoding="utf-8")
    failed = set_up(checkout)
    assert failed.returncode == 1
    assert "Python 3.11 or newer is needed, this is" in failed.stderr
