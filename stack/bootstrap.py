"""Make `.venv` what `requirements.lock` says, with `--dev` what `requirements-dev.lock` says, which holds the other.

Done already: 50 ms. Runs on a bare Python, before anything is installed.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
LOCK = ROOT / "requirements.lock"
DEV_LOCK = ROOT / "requirements-dev.lock"
DEV = "--dev"
STAMP = VENV / ".tally-stamp"
LOG = VENV / "setup.log"
UV = "uv==0.13.9"
PYTHON_MIN = (3, 11)
SCRIPT_HEAD_BYTES = 1024


class SetupError(Exception):
    """The environment cannot be made; the message is for the user."""


def main(arguments: list[str]) -> int:
    """Set the environment up, one process at a time; return the exit status."""
    wanted = DEV_LOCK if DEV in arguments else LOCK
    try:
        if sys.version_info < PYTHON_MIN:
            raise SetupError(f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}")
        if VENV.is_symlink():  # what it leads to is emptied where it was made elsewhere
            raise SetupError(f"{VENV} is a link, and the environment of another checkout would be lost: remove the link")
        VENV.mkdir(exist_ok=True)
        with (VENV / ".tally-lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # `make test` beside `make run` waits for the first of them here
            if not (_is_done(wanted) or _is_done(DEV_LOCK)):
                _set_up(wanted)
    except SetupError as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(f"{(error.strerror or str(error)).lower()}: {error.filename}")
    except KeyboardInterrupt:
        return 130
    return 0


def _is_done(lock: Path) -> bool:
    try:
        return STAMP.read_text(encoding="ascii") == _stamp(lock) and (VENV / "bin" / "python").exists()
    except OSError:
        return False


def _stamp(lock: Path) -> str:
    digest = hashlib.sha256(lock.read_bytes() + UV.encode("ascii")).hexdigest()
    return f"{digest} {VENV}\n"  # scripts of an environment hold its path: a moved one is made anew


def _set_up(lock: Path) -> None:
    _say(f"setting up {VENV} (Python {sys.version.split()[0]}); details: {LOG}")
    STAMP.unlink(missing_ok=True)
    LOG.write_bytes(b"")
    python = str(VENV / "bin" / "python")
    _make_venv()
    _run(
        [python, "-m", "pip", "install", "--quiet", "--retries", "1", "--disable-pip-version-check", UV],
        f"could not install {UV}: the first set-up needs the network",
    )
    _say("installing the locked dependencies")
    _run(
        [python, "-m", "uv", "pip", "sync", "--require-hashes", "--compile-bytecode", "--python", python, str(lock)],
        "could not install the locked dependencies: no network, or a file that does not have its locked hash",
    )
    STAMP.write_text(_stamp(lock), encoding="ascii")


def _make_venv() -> None:
    if _is_usable():
        return
    # An interrupted set-up, or the environment of another Python, must not shine through.
    for entry in VENV.iterdir():
        if entry.name not in (".tally-lock", LOG.name):
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    _run(
        [sys.executable, "-m", "venv", str(VENV)],
        "this Python cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv",
    )


def _is_usable() -> bool:
    """Return whether `.venv` has a Python that works and was made here: its scripts hold its path."""
    version = f"import sys; sys.exit(sys.version_info < {PYTHON_MIN})"
    try:
        is_here = str(VENV).encode() in (VENV / "bin" / "pip").read_bytes()[:SCRIPT_HEAD_BYTES]
        return is_here and subprocess.run([VENV / "bin" / "python", "-c", version], check=False).returncode == 0
    except OSError:
        return False


def _run(command: list[str], failure: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONHOME")}
    with LOG.open("ab") as log:
        status = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, cwd=ROOT, check=False
        ).returncode
    if status != 0:
        raise SetupError(f"{failure} (details: {LOG})")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _fail(message: str) -> int:
    sys.stderr.write(f"tally: {message}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
