"""Remove what a crash while a database was opened has left: RocksDB does so only in part, and at its next opening."""

from __future__ import annotations

import fcntl
from contextlib import suppress
from pathlib import Path

UNFINISHED = "*.dbtmp"
"""Files that are written when a database is opened, and renamed. Of those of a crash RocksDB keeps the options, since it cannot
tell them from ones that it is writing, and the others until this worker is given the partition again."""
LOCK_FILE = "LOCK"
"""RocksDB holds a POSIX lock on it while the database is open."""


def remove_leftovers(tables: Path) -> None:
    """Remove unfinished files from every database in a folder that nobody has open; what cannot be removed is left.

    For the start of a process, before it opens any itself: POSIX locks do not keep a process from what is its own, and are gone
    once it closes the file.
    """
    for path in tables.glob(f"*/{UNFINISHED}"):
        with suppress(OSError), (path.parent / LOCK_FILE).open("rb+") as lock:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
