"""Take what a file says, and take it anew when it changes; a file that is broken leaves the one before in use."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from streams.errors import SettingsError, TallyError

log = logging.getLogger(__name__)

CHECK_INTERVAL_S = 1.0
"""For so long, at most, a key counts that was revoked."""

Document = TypeVar("Document")
Stamp = tuple[int, int, int] | None
"""By which a change is seen: inode, size, time of change; None: no file."""


class BadDocumentError(TallyError):
    """A file is not what it should be; says where, without what it holds."""


def read_document(path: Path, kind: type[Document]) -> Document:
    """Return what a file of JSON says.

    Raises:
        BadDocumentError: it cannot be read, or is no *kind*.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise BadDocumentError((error.strerror or str(error)).lower()) from error
    except msgspec.DecodeError as error:
        raise BadDocumentError(str(error)) from error


class WatchedFile(Generic[Document]):
    """One file that may change while the gateway runs."""

    def __init__(self, path: Path, *, setting: str, read: Callable[[Path], Document], use: Callable[[Document], None]) -> None:
        """Watch *path*, which *setting* names.

        Args:
            read: raises BadDocumentError.
            use: takes what was read; called in the event loop.
        """
        self._path = path
        self._setting = setting
        self._read = read
        self._use = use
        self._stamp: Stamp = None

    def load(self, *, may_miss: bool) -> None:
        """Take the file for the first time; where it *may miss*, it is taken as soon as it is there.

        Raises:
            SettingsError: it is broken, or is not there.
        """
        self._stamp = _stamp_of(self._path)
        if self._stamp is None and may_miss:
            log.warning("%s: there is no such file yet", self._setting, extra={"path": str(self._path)})
            return
        try:
            self._use(self._read(self._path))
        except BadDocumentError as error:
            raise SettingsError(f"{self._setting} is {str(self._path)!r}: {error}") from error

    async def look(self) -> None:
        """Take the file if it has changed; a broken one is told once."""
        stamp = await asyncio.to_thread(_stamp_of, self._path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            document = await asyncio.to_thread(self._read, self._path)
        except BadDocumentError as error:
            log.error("%s: the file is broken, what it held before stays in use: %s", self._setting, error)
            return
        self._use(document)
        log.info("%s: taken anew", self._setting)

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(CHECK_INTERVAL_S)
            await self.look()


def _stamp_of(path: Path) -> Stamp:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
