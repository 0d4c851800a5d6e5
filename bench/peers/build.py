"""Make what runs the peers, once: an environment of its own for each in Python, and the jars. Kept until sources change."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from bench.backlogs import bench_home
from bench.console import tell
from bench.progress import BenchError

SOURCES = Path(__file__).parent
JAVA_SOURCES = SOURCES / "java"
JAVA_TOOLS = ("java", "javac", "mvn")
DIGEST_CHARACTERS = 10
BUILD_TIMEOUT_S = 900.0
DONE = "done"
OUTPUT_CHARACTERS_SHOWN = 2_000


def missing_java_tools(which: Callable[[str], str | None] = shutil.which) -> list[str]:
    """Return what the peers on the JVM need and the path does not have."""
    return [tool for tool in JAVA_TOOLS if which(tool) is None]


def make_environment(name: str) -> Path:
    """Return the Python of an environment that holds the packages of `<name>.lock`, and nothing else.

    Raises:
        BenchError: it cannot be made, for want of the network as a rule.
    """
    lock = SOURCES / f"{name}.lock"
    uv = [sys.executable, "-m", "uv", "--quiet"]

    def make(place: Path) -> None:
        _run([*uv, "venv", "--python", sys.executable, str(place)], where=place.parent)
        python = str(place / "bin" / "python")
        _run([*uv, "pip", "sync", "--require-hashes", "--python", python, str(lock)], where=place.parent)

    return _kept(name, digest_of([lock], salt=sys.version), make) / "bin" / "python"


def make_jars(module: str) -> str:
    """Return the class path of a module of `java/`.

    Raises:
        BenchError: it cannot be built, for want of the network as a rule.
    """

    def make(place: Path) -> None:
        shutil.copytree(JAVA_SOURCES, place)
        _run(["mvn", "--quiet", "--batch-mode", "package"], where=place)

    sources = sorted(path for path in JAVA_SOURCES.rglob("*") if path.is_file())
    return str(_kept("java", digest_of(sources), make) / module / "target" / "*")


def digest_of(files: Iterable[Path], *, salt: str = "") -> str:
    """Return what changes when the contents of *files*, or *salt*, do."""
    digest = hashlib.sha256(salt.encode())
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:DIGEST_CHARACTERS]


def _kept(name: str, digest: str, make: Callable[[Path], None]) -> Path:
    """Return the folder of what *make* made, made now if need be; what older sources made is removed."""
    folder = bench_home() / "peers"
    place = folder / f"{name}-{digest}"
    if not (place / DONE).exists():
        folder.mkdir(exist_ok=True)
        for old in folder.glob(f"{name}-*"):
            shutil.rmtree(old)
        tell(f"  setting up {name}: the first time takes minutes")
        make(place)
        (place / DONE).touch()
    return place


def _run(command: Sequence[str], *, where: Path) -> None:
    try:
        ended = subprocess.run(command, cwd=where, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"{command[0]} was not done after {BUILD_TIMEOUT_S:.0f} s") from error
    if ended.returncode != 0:
        raise BenchError(f"{' '.join(command)}: {(ended.stdout + ended.stderr)[-OUTPUT_CHARACTERS_SHOWN:]}")
