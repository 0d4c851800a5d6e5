"""Know where everything of one job lies: data, logs, lock, addresses; all under the folder `stack.home`."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shlex
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from stack.errors import StackError

SOCKET_PATH_BYTES_MAX = 107 - len(".1234567")  # AF_UNIX takes 107; supervisor binds a name with its pid behind first.


class StackHome:
    """The folder of one job."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path).expanduser().absolute()

    @property
    def log(self) -> Path:
        """Folder of every process's log."""
        return self.path / "log"

    @property
    def environment_file(self) -> Path:
        """Addresses of the running stack, in shell syntax."""
        return self.path / "stack.env"

    @property
    def manager_config(self) -> Path:
        """What supervisord is told to run."""
        return self.path / "supervisord.conf"

    @property
    def manager_socket(self) -> Path:
        """Where supervisord listens; in the temporary folder when the path here would be too long."""
        path = self.path / "supervisord.sock"
        if len(os.fsencode(path)) <= SOCKET_PATH_BYTES_MAX:
            return path
        digest = hashlib.sha256(os.fsencode(self.path)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"tally-{os.geteuid()}-{digest}" / "supervisord.sock"

    def make(self) -> None:
        """Make the folders.

        Raises:
            StackError: the path cannot be written into supervisord's configuration, or a folder is somebody else's.
        """
        if any(mark in str(self.path) for mark in ("\n", " ;", " #")):
            raise StackError(f"stack.home {str(self.path)!r} may hold no line break, ' ;' or ' #'; choose another")
        self.log.mkdir(parents=True, exist_ok=True)
        folder = self.manager_socket.parent
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
            raise StackError(f"{folder} belongs to somebody else; remove it, or set TALLY_STACK_HOME to a shorter path")

    @contextmanager
    def locked(self, url: str) -> Iterator[None]:
        """Hold the folder for this process, the one that serves *url*.

        Raises:
            StackError: another process holds it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "run.lock").open("a+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StackError(self._who_runs(file.name)) from None
            file.truncate(0)
            file.write(json.dumps({"pid": os.getpid(), "url": url}))
            file.flush()
            yield

    def write_environment(self, values: Mapping[str, str]) -> None:
        """Tell other tools the addresses; only the owner may read them, one holds a password."""
        self.environment_file.unlink(missing_ok=True)
        text = "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items())
        with os.fdopen(os.open(self.environment_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)

    def read_environment(self) -> dict[str, str]:
        """Return what `write_environment` told; nothing when no stack runs."""
        try:
            words = shlex.split(self.environment_file.read_text(encoding="utf-8"))
        except OSError:
            return {}
        return dict(word.split("=", 1) for word in words)

    def _who_runs(self, lock_file: str) -> str:
        try:
            holder = json.loads(Path(lock_file).read_text(encoding="utf-8"))
            who = f"pid {holder['pid']}, {holder['url']}"
        except (OSError, ValueError, KeyError):
            who = "it is just starting"
        return f"tally already runs in {self.path} ({who}); stop it first, or give this one its own TALLY_STACK_HOME and ports"
