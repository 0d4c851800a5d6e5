"""Write the file of API keys: whole or not at all, readable by its owner only, one writer at a time."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from gateway.auth.api_keys import KeysDocument, StoredKey, read_keys

FILE_MODE = 0o600


@contextmanager
def changing(path: Path) -> Iterator[dict[str, StoredKey]]:
    """Give the keys of a file, by prefix, and write what has become of them; no file yet: none.

    An exception in the block leaves the file as it was. The lock lies beside it, since the file itself is replaced.

    Raises:
        BadDocumentError: the file is broken.
        OSError: its folder cannot be written.
    """
    lock = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT, FILE_MODE)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        keys = dict(read_keys(path)) if path.exists() else {}
        yield keys
        _write(path, msgspec.json.format(msgspec.json.encode(KeysDocument(list(keys.values())))) + b"\n")
    finally:
        os.close(lock)


def _write(path: Path, text: bytes) -> None:
    """Replace the file; a reader sees the old one or the new one. One that belongs to somebody else keeps its owner."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text)
            file.flush()
            _keep_owner(path, descriptor)
            os.fsync(descriptor)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _keep_owner(path: Path, descriptor: int) -> None:
    """Give the new file to the old one's owner: a key that root adds must still be read by the gateway."""
    if os.geteuid() == 0 and path.exists():
        found = path.stat()
        os.fchown(descriptor, found.st_uid, found.st_gid)
