"""Find free ports in a row, where no connection takes one while its process is dead."""

from __future__ import annotations

import os
import random

from stack.ports import is_free

PORTS_FROM, PORTS_TO = 18_000, 32_000
"""Below those that the kernel gives to connections: a process that starts again must find its port free."""


def ports_in_a_row(count: int) -> int:
    """Return the first of *count* free ports that follow each other."""
    draw = random.Random(os.urandom(8))
    while True:
        first = draw.randrange(PORTS_FROM, PORTS_TO - count)
        if all(is_free(port) for port in range(first, first + count)):
            return first
