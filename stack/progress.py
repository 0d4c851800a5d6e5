"""Tell the user how far the stack is, one line at a time."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable

Say = Callable[[str], None]


def say(line: str) -> None:
    """Write *line* to standard output at once; a terminal that is gone is no reason to stop."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def say_nothing(line: str) -> None:
    """Swallow *line*: for tests and tools."""
