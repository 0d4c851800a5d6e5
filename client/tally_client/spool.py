"""Events on disk: a SQLite file that survives the process, which several processes may share without sending twice."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import threading
import time
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tally_client.errors import SpoolError
from tally_client.events import QueuedEvent
from tally_client.outcomes import Outcome, failed
from tally_client.owners import Owners

log = logging.getLogger(__name__)

FORMAT = 1
PAGE_BYTES = 4096
RESERVED_PAGES = 64
"""What new events leave free: marking events as claimed takes a little, and must be possible when the spool is full."""
BYTES_MIN = 2 * RESERVED_PAGES * PAGE_BYTES
BUSY_S = 0.5
"""How long a write waits for another process's; a capture that goes to disk takes no longer."""
LOG_BYTES_MAX = 4_000_000
"""What SQLite's write-ahead log is cut back to."""
OPENINGS_MAX = 20
"""SQLite does not wait for others while it makes a file one with a write-ahead log: it is tried again, 50 ms apart."""
ROOM_EVENTS = 100
"""How many of the oldest are given up at a time to make room."""
SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, body BLOB NOT NULL, checksum INTEGER NOT NULL,
  boot TEXT NOT NULL, elapsed_s REAL NOT NULL, wall_s REAL NOT NULL, owner TEXT
);
CREATE INDEX IF NOT EXISTS events_owner ON events (owner, seq);
CREATE TABLE IF NOT EXISTS owners (
  owner TEXT PRIMARY KEY, boot TEXT NOT NULL, pid INTEGER NOT NULL, namespace TEXT NOT NULL,
  elapsed_s REAL NOT NULL, wall_s REAL NOT NULL
);
"""
FREE = "SELECT seq, id, body, checksum, boot, elapsed_s, wall_s FROM events WHERE owner IS NULL ORDER BY seq LIMIT ?"
_abandoned: list[sqlite3.Connection] = []
"""A connection must neither be used nor closed in a forked child: SQLite's locks are the parent's."""


class SpoolDamagedError(SpoolError):
    """The file was no spool any more; a new one takes its place."""


class Claim(NamedTuple):
    """Events that are now this process's to send, and those that never will be sent."""

    events: Sequence[QueuedEvent] = ()
    failed: Sequence[Outcome] = ()


class Spool:
    """The events of one file; safe for threads, and for other processes beside.

    Args:
        path: of the file; made with mode 0600.
        bytes_max: of the file, SQLite's own pages included; at least 512 KiB. Its write-ahead log may have 4 MB besides.
        drop_oldest: whether the oldest events make room for new ones.
        owners: who this process is, and who else lives.

    Raises:
        SpoolError: the file cannot be opened, or a newer client wrote it.
    """

    def __init__(self, path: str, *, bytes_max: int, drop_oldest: bool, owners: Owners) -> None:
        self._path = path
        self._pages_max = max(bytes_max, BYTES_MIN) // PAGE_BYTES
        self._drop_oldest = drop_oldest
        self._owners = owners
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._claimed: set[str] = set()
        self._done: set[str] = set()  # To be removed; they are still there where the disk has refused.
        self._orphans: set[str] = set()  # Claimed in a file that is gone: nobody else has them.
        with self._lock:
            try:
                with self._errors():
                    self._open()
            except SpoolDamagedError as error:
                log.warning("%s", error)
                with self._errors():
                    self._open()

    def put(self, events: Sequence[QueuedEvent], *, durably: bool) -> list[Outcome]:
        """Write events; return the outcomes of those that had to go: the new ones or, to make room, the oldest.

        A second put of an id changes nothing. With *durably* they are on the disk when this returns, else they survive
        the process but perhaps not the machine.

        Raises:
            SpoolError: nothing was written.
        """
        with self._lock, self._errors():
            connection = self._opened()
            connection.execute(f"PRAGMA synchronous = {'FULL' if durably else 'NORMAL'}")
            dropped: list[Outcome] = []
            while True:
                try:
                    self._insert(connection, events)
                    return dropped
                except sqlite3.OperationalError as error:
                    if "full" not in str(error):
                        raise
                    oldest = self._drop(connection) if self._drop_oldest else []
                    if not oldest:
                        return [*dropped, *failed(events, "spool_full")]
                    dropped += failed(oldest, "spool_full")

    def _insert(self, connection: sqlite3.Connection, events: Sequence[QueuedEvent]) -> None:
        connection.execute(f"PRAGMA max_page_count = {self._pages_max - RESERVED_PAGES}")
        try:
            with self._transaction(connection):
                connection.executemany(
                    "INSERT OR IGNORE INTO events (id, body, checksum, boot, elapsed_s, wall_s) VALUES (?,?,?,?,?,?)",
                    [self._row(event) for event in events],
                )
        finally:
            connection.execute(f"PRAGMA max_page_count = {self._pages_max}")

    def _row(self, event: QueuedEvent) -> tuple[object, ...]:
        boot, _, wall_s = stamp = self._owners.stamp()
        enqueued = (boot, event.enqueued_at_s, wall_s - (stamp.elapsed_s - event.enqueued_at_s))
        return (event.event_id, event.body, _checksum(event.event_id, event.body), *enqueued)

    def _drop(self, connection: sqlite3.Connection) -> list[QueuedEvent]:
        """Remove the oldest events that nobody is sending."""
        with self._transaction(connection):
            found = connection.execute(
                "SELECT seq, id, body FROM events WHERE owner IS NULL ORDER BY seq LIMIT ?", (ROOM_EVENTS,)
            ).fetchall()
            connection.executemany("DELETE FROM events WHERE seq = ?", [(seq,) for seq, _, _ in found])
        return [QueuedEvent(event_id, body, 0.0, spooled=True) for _, event_id, body in found]

    def claim(self, *, events_max: int, bytes_max: int, held: Collection[str] | None = None) -> Claim:
        """Take the oldest events that nobody sends, at most a batch; they are this process's until it ends or lets go.

        Args:
            events_max, bytes_max: of the batch.
            held: ids that were claimed before and are being sent; None: all that were. Others of this process's are let go:
                who claimed them was ended before it had them.

        Raises:
            SpoolError: nothing was taken.
        """
        with self._lock, self._errors():
            connection = self._opened()
            unheld = self._claimed.difference(self._claimed if held is None else held)
            if not (unheld or self._done or self._owners.anything_free(connection)):
                return Claim()
            with self._transaction(connection):
                self._delete_done(connection)
                self._owners.let_go(connection, unheld)
                self._owners.free_the_dead(connection)
                events, bad = self._read(connection, events_max=events_max, bytes_max=bytes_max)
                mine = [(self._owners.name, event.event_id) for event in events]
                if mine:
                    self._owners.renew(connection)
                connection.executemany("UPDATE events SET owner = ? WHERE id = ?", mine)
                if bad:  # What the damage has turned may be the id, and then the index of ids says something else.
                    connection.execute("REINDEX events")
                    connection.executemany("DELETE FROM events WHERE seq = ?", [(seq,) for seq, _ in bad])
            self._done.clear()
            self._claimed -= unheld
            self._claimed.update(event.event_id for event in events)
            damaged = [QueuedEvent(str(event_id), b"", 0.0, spooled=True) for _, event_id in bad]
            return Claim(events, failed(damaged, "spool_corrupt", "its record was damaged on disk"))

    def _read(
        self, connection: sqlite3.Connection, *, events_max: int, bytes_max: int
    ) -> tuple[list[QueuedEvent], list[tuple[int, object]]]:
        """Return the next batch, and `seq` and id of each damaged record before its end."""
        events: list[QueuedEvent] = []
        bad: list[tuple[int, object]] = []
        for seq, event_id, body, checksum, *enqueued in connection.execute(FREE, (events_max,)):
            if not _is_sound(event_id, body, checksum, *enqueued):
                bad.append((seq, event_id))
                continue
            bytes_max -= len(body) + 1
            if bytes_max < 0 and events:
                break
            events.append(QueuedEvent(event_id, body, self._owners.local_s(*enqueued), spooled=True))
        return events, bad

    def hold(self, events: Sequence[QueuedEvent]) -> list[QueuedEvent]:
        """Say again that this process sends its events, and return those that nobody else has taken meanwhile.

        Events that never were in the spool are among them.

        Raises:
            SpoolError: the file cannot be asked.
        """
        with self._lock, self._errors():
            connection = self._opened()
            with self._transaction(connection):
                self._owners.renew(connection)
                rows = connection.execute("SELECT id FROM events WHERE owner = ?", (self._owners.name,)).fetchall()
            self._claimed &= {event_id for (event_id,) in rows}
            mine = self._claimed | self._orphans
            return [event for event in events if event.event_id in mine or not event.spooled]

    def remove(self, event_ids: Iterable[str]) -> None:
        """Remove events that are done.

        Raises:
            SpoolError: they are still there; they go with the next that can be written, or are sent again by another process:
                the server knows their ids.
        """
        with self._lock, self._errors():
            self._done.update(event_ids)
            self._claimed -= self._done
            self._orphans -= self._done
            connection = self._opened()
            with self._transaction(connection):
                self._delete_done(connection)
            self._done.clear()

    def _delete_done(self, connection: sqlite3.Connection) -> None:
        connection.executemany("DELETE FROM events WHERE id = ?", [(event_id,) for event_id in self._done])

    def close(self) -> None:
        """Let other processes send what this one has claimed, and close the file; closing again does nothing."""
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is None:
                return
            with contextlib.suppress(sqlite3.Error):
                self._owners.leave(connection)
            connection.close()

    def forget(self) -> None:
        """Become the spool of a forked child: a new connection, a new owner; the parent's claims stay the parent's."""
        if self._connection is not None:
            _abandoned.append(self._connection)
        self._connection = None
        self._claimed, self._orphans, self._done = set(), set(), set()
        self._lock = threading.Lock()
        self._owners.become_another()

    def _opened(self) -> sqlite3.Connection:
        if self._connection is not None and not self._is_in_place():
            log.warning("the spool's file was taken away or set aside: a new one is begun")
            self._leave_file()
        if self._connection is None:
            self._open()
        if self._connection is None:  # pragma: no cover
            raise SpoolError("the spool is closed")
        return self._connection

    def _open(self) -> None:
        for left in reversed(range(OPENINGS_MAX)):
            try:
                self._open_once()
            except sqlite3.OperationalError as error:
                if not left or "locked" not in str(error):
                    raise
                time.sleep(0.05)
            else:
                return

    def _open_once(self) -> None:
        with contextlib.suppress(FileExistsError):  # One that exists is not opened: closing it would end this process's locks.
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))  # SQLite's other files take this mode.
        self._file = _file_at(self._path)
        connection = sqlite3.connect(self._path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            connection.text_factory = _text_of
            connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA journal_size_limit = {LOG_BYTES_MAX}")
            connection.execute(f"PRAGMA max_page_count = {self._pages_max}")
            ((found,),) = connection.execute("PRAGMA user_version")
            if found not in (0, FORMAT):
                raise SpoolError(f"the spool has format {found}, this client knows {FORMAT}")
            if found == 0:
                connection.executescript(f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA user_version = {FORMAT}; COMMIT;")
        except BaseException:
            connection.close()
            raise
        self._connection = connection

    @contextlib.contextmanager
    def _transaction(self, connection: sqlite3.Connection) -> Iterator[None]:
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn what SQLite raises into a SpoolError; a file that is no database any more is set aside for a new one."""
        try:
            yield
        except sqlite3.Error as error:
            if type(error) is not sqlite3.DatabaseError:  # Its own kinds are locks, a full disk and the like.
                raise SpoolError(f"the spool cannot be used now: {error}") from None
            self._set_aside()
            raise SpoolDamagedError(f"the spool was damaged and is set aside as *.damaged: {error}") from None
        except OSError as error:
            raise SpoolError(f"the spool cannot be opened: {type(error).__name__}") from None

    def _is_in_place(self) -> bool:
        """Say whether the path still leads to the file that was opened; nobody would ever read what is written to another."""
        return self._file == _file_at(self._path)

    def _leave_file(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._orphans |= self._claimed
        self._claimed, self._done = set(), set()

    def _set_aside(self) -> None:
        self._leave_file()
        if not self._is_in_place():  # Another process has done it already: what is there now is its new one.
            return
        for suffix in ("", "-wal", "-shm"):
            with contextlib.suppress(OSError):
                Path(self._path + suffix).replace(f"{self._path}{suffix}.damaged")


def _is_sound(event_id: object, body: object, checksum: object, boot: object, *times_s: object) -> bool:
    if not (isinstance(event_id, str) and isinstance(body, bytes) and isinstance(boot, str)):
        return False
    return checksum == _checksum(event_id, body) and all(isinstance(time_s, (int, float)) for time_s in times_s)


def _text_of(stored: bytes) -> str:
    """Read a text that may be damaged; SQLite's own way would raise, and hide every record behind it."""
    return stored.decode("utf-8", "replace")


def _file_at(path: str) -> tuple[int, int] | None:
    """Return what tells a file from another that takes its name; None where there is none."""
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _checksum(event_id: str, body: bytes) -> int:
    return zlib.crc32(body, zlib.crc32(event_id.encode()))
