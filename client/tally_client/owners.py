"""Who sends which event of a shared spool: a lease of each process, that ends with the process or after a minute of silence."""

from __future__ import annotations

import os
import sqlite3
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from tally_client.clock import Clock

LEASE_S = 120.0
"""Longer than the longest pause between two attempts with the request between them, all its timeouts included."""


class Stamp(NamedTuple):
    """An instant by both clocks; `elapsed_s` compares only within the same *boot* ("" where that is unknown)."""

    boot: str
    elapsed_s: float
    wall_s: float


class Owners:
    """This process among those that share a spool. Its methods run inside its caller's transaction.

    Args:
        clock: whose `elapsed_s` all processes of one boot share.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._boot = _text_of("/proc/sys/kernel/random/boot_id")
        self.become_another()

    def become_another(self) -> None:
        """Take a new name and the ids of the process that runs now."""
        self.name = uuid.uuid4().hex
        self._pid = os.getpid()
        self._namespace = _link_of("/proc/self/ns/pid")

    def stamp(self) -> Stamp:
        """Return the time now."""
        return Stamp(self._boot, self._clock.elapsed_s(), self._clock.wall_s())

    def local_s(self, boot: str, elapsed_s: float, wall_s: float) -> float:
        """Return a stored instant on this process's `elapsed_s`; by the wall clock only where it is of another boot."""
        now = self.stamp()
        if boot and boot == now.boot:
            return elapsed_s
        return now.elapsed_s - max(0.0, now.wall_s - wall_s)

    def renew(self, connection: sqlite3.Connection) -> None:
        """Write down that this process lives."""
        row = (self.name, self._boot, self._pid, self._namespace, self._clock.elapsed_s(), self._clock.wall_s())
        connection.execute("INSERT OR REPLACE INTO owners VALUES (?,?,?,?,?,?)", row)

    def let_go(self, connection: sqlite3.Connection, event_ids: Iterable[str]) -> None:
        """Let go of some events of this process."""
        of_mine = [(event_id, self.name) for event_id in event_ids]
        connection.executemany("UPDATE events SET owner = NULL WHERE id = ? AND owner = ?", of_mine)

    def leave(self, connection: sqlite3.Connection) -> None:
        """Let go of every event of this process."""
        connection.execute("UPDATE events SET owner = NULL WHERE owner = ?", (self.name,))
        connection.execute("DELETE FROM owners WHERE owner = ?", (self.name,))

    def anything_free(self, connection: sqlite3.Connection) -> bool:
        """Say whether there is an event to claim, without a write."""
        free = connection.execute("SELECT 1 FROM events WHERE owner IS NULL LIMIT 1").fetchone()
        return free is not None or bool(self._dead(connection))

    def free_the_dead(self, connection: sqlite3.Connection) -> None:
        """Take the events from every owner that has died or has said nothing for the time of a lease."""
        for owner in self._dead(connection):
            connection.execute("UPDATE events SET owner = NULL WHERE owner = ?", (owner,))
            connection.execute("DELETE FROM owners WHERE owner = ?", (owner,))

    def _dead(self, connection: sqlite3.Connection) -> list[str]:
        owners = connection.execute("SELECT * FROM owners WHERE owner <> ?", (self.name,)).fetchall()
        return [owner for owner, *row in owners if self._is_dead(*row)]

    def _is_dead(self, boot: str, pid: int, namespace: str, elapsed_s: float, wall_s: float) -> bool:
        if boot != self._boot:
            return True
        if self._clock.elapsed_s() - self.local_s(boot, elapsed_s, wall_s) > LEASE_S:
            return True
        # A pid says something only inside its own namespace: containers may share a spool.
        return bool(boot) and bool(namespace) and namespace == self._namespace and not _runs(pid)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _text_of(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def _link_of(path: str) -> str:
    try:
        return str(Path(path).readlink())
    except OSError:
        return ""
