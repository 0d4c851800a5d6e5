"""A disk of its own for one folder: small, full or read-only on demand. Needs root, and the right to mount."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

MIB = 1 << 20
BALLAST = "ballast"
PAGE_BYTES = 4096


class SmallDisk:
    """A tmpfs mounted on *path*, which keeps what the folder held before, with its owners."""

    def __init__(self, path: Path, *, size_mib: int) -> None:
        self.path = path
        self.size_mib = size_mib
        self._is_mounted = False

    @property
    def free_bytes(self) -> int:
        """Return how much may still be written."""
        return shutil.disk_usage(self.path).free

    def mount(self) -> SmallDisk:
        """Put the disk in place; nobody may use the folder now."""
        before = self.path.with_name(f"{self.path.name}.before")
        if self.path.exists():
            self.path.rename(before)
        self.path.mkdir(parents=True)
        _run("mount", "-t", "tmpfs", "-o", f"size={self.size_mib}m,mode=0700", "tmpfs", str(self.path))
        self._is_mounted = True
        if before.exists():
            _run("cp", "--archive", f"{before}/.", str(self.path))
            shutil.rmtree(before)
        return self

    def fill(self) -> None:
        """Leave not one page free; again, for what was freed since."""
        with self._ballast.open("ab", buffering=0) as file:
            size_bytes = MIB
            while size_bytes >= PAGE_BYTES:
                try:
                    file.write(bytes(size_bytes))
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    size_bytes //= 2

    def free(self) -> None:
        """Give back what `fill` took; a second call changes nothing."""
        self._ballast.unlink(missing_ok=True)

    def forbid_writing(self) -> None:
        """Let nobody open a file of the disk for writing, or make one, from now on.

        A disk with a file open for writing cannot be made read-only (EBUSY), but a read-only view of it can be put in its
        place: what is open stays writable, and whatever is opened by its path is not.
        """
        _run("mount", "--bind", str(self.path), str(self.path))
        _run("mount", "-o", "remount,bind,ro", str(self.path))

    def allow_writing(self) -> None:
        """Undo `forbid_writing`; a second call does nothing."""
        if os.statvfs(self.path).f_flag & os.ST_RDONLY:
            _run("umount", "--lazy", str(self.path))

    def unmount(self) -> None:
        """Take the disk away, whoever still holds a file open; what was on it is gone. A second call does nothing."""
        self.allow_writing()
        if self._is_mounted:
            _run("umount", "--lazy", str(self.path))
            self._is_mounted = False

    @property
    def _ballast(self) -> Path:
        return self.path / BALLAST


@cache
def may_mount() -> bool:
    """Say whether this process may mount: root of a container often may not. Tries it once, on a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="tally-mount-") as folder:
        try:
            SmallDisk(Path(folder) / "disk", size_mib=1).mount().unmount()
        except (subprocess.CalledProcessError, FileNotFoundError):
            return False
    return True


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, cwd=os.sep)
