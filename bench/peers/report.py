"""What a peer in Python tells the benchmark, in files. Imports nothing of Tally: it runs in the peer's own environment."""

from __future__ import annotations

import sys
import threading
from collections import defaultdict
from pathlib import Path

INTERVAL_S = 0.25


class Report:
    """How many events are counted, four times a second, and at the end the totals of what the state holds.

    Attributes:
        counted: events so far; one thread only adds to it.
    """

    def __init__(self, home: Path) -> None:
        self.counted = 0
        self._home = home
        self._totals: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])

    def keep_telling(self) -> None:
        """Write down how many events are counted, from now on, beside the work."""
        threading.Thread(target=self._write_counted, daemon=True).start()

    def add(self, cell: str, count: int, total: int) -> None:
        """Add one cell, "minute|action|…", of the state to the totals of its minute and action."""
        totals = self._totals["|".join(cell.split("|", 2)[:2])]
        totals[0] += count
        totals[1] += total

    def write_totals(self) -> None:
        """Write the totals down."""
        self._write("totals", "".join(f"{key}\t{count}\t{total}\n" for key, (count, total) in sorted(self._totals.items())))

    def _write_counted(self) -> None:
        pause = threading.Event()
        while not pause.wait(INTERVAL_S):
            self._write("counted", str(self.counted))

    def _write(self, name: str, text: str) -> None:
        unfinished = self._home / f"{name}.new"
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(self._home / name)


def await_end() -> None:
    """Return when the benchmark has seen enough, or has died: at the end of standard input."""
    sys.stdin.read()
