"""Bring Kafka's jars to this machine: every artifact pinned, every byte checked against the lock file's SHA-256.

jgo knows where Maven artifacts live and which mirrors the user has configured; left to its own resolution it would
mix versions of Kafka, so it is asked for each artifact by its exact coordinate.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jgo.config import GlobalSettings
from jgo.env import LockFile
from jgo.maven import MavenContext

from stack.errors import StackError
from stack.progress import Say, say, say_nothing

logger = logging.getLogger(__name__)

COORDINATES_FILE = Path(__file__).with_name("kafka-coordinates.txt")
LOCK_FILE = Path(__file__).with_name("kafka.lock.toml")
TRIES = 2
TIMEOUT_S = 20
PROGRESS_EVERY = 10


@dataclass(frozen=True)
class LockedJar:
    """One artifact of the lock file."""

    coordinate: str
    """group:artifact:version"""
    sha256: str


def read_coordinates(path: Path = COORDINATES_FILE) -> list[str]:
    """Return the coordinates that *path* lists, one a line."""
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def read_lock(path: Path = LOCK_FILE) -> list[LockedJar]:
    """Return what *path* pins, in its order.

    Raises:
        StackError: an artifact has no hash.
    """
    jars = []
    for entry in LockFile.load(path).dependencies:
        coordinate = f"{entry.groupId}:{entry.artifactId}:{entry.version}"
        if not entry.sha256:
            raise StackError(f"{path} has no sha256 for {coordinate}; restore the file")
        jars.append(LockedJar(coordinate, entry.sha256))
    return jars


def fetch_jars(jars: Sequence[LockedJar] | None = None, *, cache: Path | None = None, say: Say = say_nothing) -> list[Path]:
    """Return the paths of *jars* (default: those of the lock file), fetched when missing and always checked.

    Args:
        cache: Maven repository folder; default the user's own.
        say: told how far the fetching is.

    Raises:
        StackError: a jar cannot be fetched, or its hash is wrong.
    """
    jars = read_lock() if jars is None else jars
    cache = cache or Path(GlobalSettings.load().repo_cache)
    with _fetching(cache) as staging:
        context = _context(cache, staging)
        artifacts = [context.create_dependency(jar.coordinate).artifact for jar in jars]
        missing = sum(not (cache / _place_of(artifact)).is_file() for artifact in artifacts)
        if missing:
            say(f"kafka: fetching {missing} of {len(jars)} jars into {cache}")
        paths, fetched = [], 0
        for jar, artifact in zip(jars, artifacts, strict=True):
            path = cache / _place_of(artifact)
            if not path.is_file():
                _fetch(jar, artifact, path)
                fetched += 1
                if fetched % PROGRESS_EVERY == 0 or fetched == missing:
                    say(f"kafka: {fetched} of {missing} jars fetched and checked")
            elif sha256_of(path) != jar.sha256:
                raise StackError(f"the jar {path} does not have the SHA-256 of {LOCK_FILE.name}; delete it and start again")
            paths.append(path)
    return paths


def write_lock(path: Path = LOCK_FILE) -> None:
    """Write the lock file anew from the coordinates: for those who change Kafka's version, who read the diff."""
    context = MavenContext()
    dependencies = [context.create_dependency(coordinate) for coordinate in read_coordinates()]
    LockFile.from_resolved_dependencies(dependencies, environment_name="kafka").save(path)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of the file *path* in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _fetching(cache: Path) -> Iterator[Path]:
    """Give a folder for unchecked files beside the checked ones, to one process at a time."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with (cache / ".tally.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with tempfile.TemporaryDirectory(prefix=".tally-", dir=cache) as staging:
                yield Path(staging)
    except OSError as error:
        raise StackError(f"cannot keep Kafka's jars in {cache}: {error.strerror or error}") from error


def _context(cache: Path, staging: Path) -> Any:
    settings = GlobalSettings.load()
    # jgo asks local_repos first and writes only to repo_cache: what it fetches stays apart until it is checked.
    context = MavenContext(repo_cache=staging, local_repos=[cache], timeout=TIMEOUT_S)
    context.remote_repos = {**settings.repositories, **context.remote_repos}
    return context


def _place_of(artifact: Any) -> Path:
    return Path(artifact.component.path_prefix) / str(artifact.cached_filename)


def _fetch(jar: LockedJar, artifact: Any, path: Path) -> None:
    fetched = _download(jar, artifact)
    if sha256_of(fetched) != jar.sha256:
        fetched.unlink()
        raise StackError(
            f"{path.name} as fetched does not have the SHA-256 of {LOCK_FILE.name}: nothing of it was kept;"
            " start again, and if it stays so, ask who runs your Maven mirror"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    os.chmod(fetched, 0o644)  # noqa: PTH101
    shutil.move(fetched, path)


def _download(jar: LockedJar, artifact: Any) -> Path:
    for attempt in range(TRIES):
        try:
            return Path(artifact.resolve())
        except (OSError, RuntimeError) as error:  # requests' errors are OSErrors, jgo's own RuntimeErrors
            artifact.cached_path.unlink(missing_ok=True)
            if getattr(error, "errno", None) == errno.ENOSPC:
                raise
            cause = error
            logger.info("could not fetch a jar", extra={"jar": jar.coordinate, "attempt": attempt, "cause": repr(error)})
    reason = "no connection" if isinstance(cause, OSError) else "the repository does not have it, or sent it damaged"
    raise StackError(f"cannot fetch Kafka's jar {jar.coordinate} ({reason}); the first start needs the network") from cause


if __name__ == "__main__":
    write_lock()
    say(f"wrote {LOCK_FILE}")
