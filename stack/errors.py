"""Name what can go wrong with the local stack: every message is one line that says what to do."""

from __future__ import annotations

from streams.errors import TallyError


class StackError(TallyError):
    """The local stack cannot start or go on; the message is shown to the user as it is."""


class ServiceNotReadyError(StackError):
    """A service did not become ready within its time limit."""
