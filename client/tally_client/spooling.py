"""When the spool has its turn: as a queue has, and every few seconds, and every second batch while both have some."""

from __future__ import annotations

from tally_client.clock import Clock

LOOK_S = 5.0
"""How often an idle client looks for what another process has left."""
REST_S = 5.0
"""How long a spool is left alone that could not be read."""


class SpoolTurns:
    """What a sender knows of its spool without asking it. Plain state; its owner locks.

    Args:
        present: whether there is a spool at all.
        wait_s: how long a written event waits for others to go with.
        events_max: how many written events do not wait any longer.
    """

    def __init__(self, *, present: bool, wait_s: float, events_max: int) -> None:
        self._present = present
        self._wait_s = wait_s
        self._events_max = events_max
        self.generation = 1
        """Rises with every write and flush: a claim that finds nothing has emptied what was there before it."""
        self._emptied = 0
        self._urgent = 1
        self._written = 0
        self._first_at_s = 0.0
        self._not_before_s = 0.0
        self._look_at_s = 0.0
        self._turn = True

    def written(self, now_s: float) -> None:
        """Take note that this process wrote to the spool."""
        self.generation += 1
        self._written += 1
        if self._written == 1:
            self._first_at_s = now_s
        if self._written >= self._events_max:
            self._urgent = self.generation

    def flush(self) -> int:
        """Make the spool due now; return the generation that must be emptied for that."""
        self.generation += 1
        self._urgent = self.generation
        return self.generation

    def emptied(self, generation: int) -> bool:
        """Say whether everything of a generation has been sent, or is another process's to send."""
        return not self._present or self._emptied >= generation

    def due(self, now_s: float) -> bool:
        """Say whether the spool is to be asked now."""
        return self._present and now_s >= self._due_at_s()

    def _due_at_s(self) -> float:
        due_at_s = self._look_at_s
        if self._emptied < self._urgent:
            due_at_s = 0.0
        elif self._written:
            due_at_s = self._first_at_s + self._wait_s
        return max(due_at_s, self._not_before_s)

    def first(self, now_s: float) -> bool:
        """Say whether the spool goes before a batch that is due in memory; every second time, so that neither starves."""
        first = self._turn and self.due(now_s)
        self._turn = not first
        return first

    def claimed(self, generation: int, count: int, now_s: float) -> None:
        """Take note of a claim that began at *generation* and found so many events."""
        if count:  # There may be more behind it.
            self._urgent = max(self._urgent, generation)
        else:
            self._emptied = max(self._emptied, generation)
            self._look_at_s = now_s + LOOK_S
        self._written = int(self.generation > generation)
        self._first_at_s = now_s

    def broken(self, now_s: float) -> None:
        """Take note that the spool could not be asked."""
        self._not_before_s = now_s + REST_S

    def wait_s(self, due_s: float | None, now_s: float, clock: Clock) -> float | None:
        """Return how long (s) to wait for the next thing to do, memory's included; None for as long as it takes."""
        waits = [wait for wait in (due_s, self._due_at_s() - now_s if self._present else None) if wait is not None]
        return clock.wait_s(max(0.0, min(waits))) if waits else None
