"""Every open client of this process: told of forks, and closed when the process ends."""

from __future__ import annotations

import atexit
import os
import sys
from typing import Protocol

from tally_client.clock import SYSTEM_CLOCK

EXIT_S = 2.0
"""What all clients together may take of the interpreter's exit."""


class Open(Protocol):
    """What is open until it is closed."""

    def become_child(self) -> None:
        """Begin anew in a forked child; what was under way is the parent's."""
        ...

    def end(self, timeout_s: float) -> None:
        """Close because the process ends."""
        ...


_open: dict[int, Open] = {}
_watched_pids: set[int] = set()


def opened(client: Open) -> None:
    """Keep a client until it is closed, so that none is forgotten with events in it."""
    _open[id(client)] = client


def closed(client: Open) -> None:
    """Let go of a client."""
    _open.pop(id(client), None)


def watch_multiprocessing() -> None:
    """See to it that a child of `multiprocessing` closes its clients: it ends without running what `atexit` knows."""
    multiprocessing = sys.modules.get("multiprocessing.util")
    if multiprocessing is not None and os.getpid() not in _watched_pids:
        _watched_pids.add(os.getpid())
        multiprocessing.Finalize(None, end_all, exitpriority=10)


def end_all() -> None:
    """Close every open client; the time is shared evenly among those that are left."""
    until_s = SYSTEM_CLOCK.elapsed_s() + EXIT_S
    while _open:
        _, client = _open.popitem()
        client.end(max(0.0, until_s - SYSTEM_CLOCK.elapsed_s()) / (len(_open) + 1))


def _become_children() -> None:
    for client in list(_open.values()):
        client.become_child()


atexit.register(end_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_become_children)
