"""Write the bill of materials of the locked packages, and look whether any of them is known to be vulnerable.

`python -m stack.materials bill FILE` and `python -m stack.materials audit`. uv does both from a lock file of its own, which is
made from our declaration and our lock in a folder that is thrown away.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from stack.errors import StackError

ROOT = Path(__file__).resolve().parent.parent
LOCK = "requirements.lock"
WITHIN_S = 600
USAGE = "usage: python -m stack.materials bill FILE | audit"
_PINNED = re.compile(r"^([A-Za-z0-9._-]+==[^\\\n]+?)\s*\\?$", re.MULTILINE)
"""Version and marker: some packages are locked in several versions, for several Pythons."""
_SECTION = "[tool.uv]\n"


def write_bill(path: Path) -> None:
    """Write the bill of materials, CycloneDX 1.5 in JSON; it replaces an older one.

    Raises:
        StackError: no registry answers.
    """
    with _project() as folder:
        path.write_text(_uv(folder, "export", "--quiet", "--format", "cyclonedx1.5", "--no-dev"))


def audit() -> str:
    """Return what is known against the locked packages.

    Raises:
        StackError: something is known; or the registry, or the service that knows, does not answer.
    """
    with _project() as folder:
        return _uv(folder, "audit", "--no-dev")


@contextmanager
def _project() -> Iterator[Path]:
    """A folder with our declaration, held to the versions of our lock."""
    declaration = (ROOT / "pyproject.toml").read_text()
    pins = "".join(f'    "{pin}",\n' for pin in _PINNED.findall((ROOT / LOCK).read_text()))
    with tempfile.TemporaryDirectory(prefix="tally-materials-") as name:
        folder = Path(name)
        text = declaration.replace(_SECTION, f"{_SECTION}constraint-dependencies = [\n{pins}]\n", 1)
        (folder / "pyproject.toml").write_text(text)
        (folder / "README.md").touch()
        yield folder


def _uv(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "uv", *arguments, "--project", str(folder)]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=WITHIN_S, check=False)
    if ended.returncode != 0:
        said = " ".join((ended.stdout + ended.stderr).split())
        raise StackError(f"uv {arguments[0]} ended with {ended.returncode}: {said}")
    return ended.stdout


def main(arguments: Sequence[str]) -> int:
    """Do what the arguments say and return the exit status; an error is one line."""
    try:
        match arguments:
            case ["bill", path]:
                write_bill(Path(path))
            case ["audit"]:
                sys.stdout.write(audit())
            case _:
                sys.stderr.write(USAGE + "\n")
                return 2
    except StackError as error:
        sys.stderr.write(f"materials: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
