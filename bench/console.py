"""Say how far a benchmark is: on standard error, because a run's standard output is its figures."""

from __future__ import annotations

import sys


def tell(line: str) -> None:
    """Write a line at once: a case takes minutes."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
