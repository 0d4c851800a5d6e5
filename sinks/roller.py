"""Roll up what is due, and end what is pending in vain: in a thread and on a connection of its own, so writing never waits."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from threading import Event, Thread

import psycopg

from sinks.postgres import Postgres
from sinks.rollups import Due, Piece, Rollups
from sinks.submissions import settle
from streams.clock import Clock
from streams.metrics import SinkMetrics
from streams.topics import Stream

log = logging.getLogger(__name__)

LOOK_INTERVAL_S = 5.0
RETRY_INTERVAL_S = 15.0
IDLE_SHARE = 1.0
"""Seconds of rest for each second of rolling up: writing and reports come first."""
STOP_WITHIN_S = 2.0


class Roller(Thread):
    """Looks every few seconds for hours and days that are due. Killed at any moment it leaves them due."""

    def __init__(
        self, streams: Sequence[Stream], postgres: Postgres, *, quiet_s: float, metrics: SinkMetrics, clock: Clock
    ) -> None:
        """Describe the thread; nothing happens before `start`.

        Args:
            quiet_s: how long nobody has written to an hour before it is rolled up.
        """
        super().__init__(name="roller", daemon=True)
        self._rollups = [Rollups(stream) for stream in streams]
        self._logged = [stream for stream in streams if stream.id]
        self._postgres = postgres
        self._quiet_s = quiet_s
        self._metrics = metrics
        self._clock = clock
        self._stopped = Event()
        self._failing = False

    def run(self) -> None:
        """Roll up until stopped; Postgres is asked again for as long as it takes."""
        self._note_progress()
        pause_s = 0.0
        while not self._stopped.wait(pause_s):
            try:
                self._roll_all()
            except psycopg.Error as error:
                self._note_failure(error)
                pause_s = RETRY_INTERVAL_S
            else:
                self._failing = False
                pause_s = LOOK_INTERVAL_S
        self._postgres.close()

    def stop(self) -> None:
        """End the thread; what it is at is rolled back, and due at the next start."""
        self._stopped.set()
        self.join(STOP_WITHIN_S)

    def _roll_all(self) -> None:
        connection = self._postgres.connection()
        waiting = 0
        for rollups in self._rollups:
            due = Due(self._clock.now_ms() / 1000, self._quiet_s)
            self._roll_some("hour", rollups.due_hours(connection, due), rollups.roll_hour)
            self._roll_some("day", rollups.due_days(connection, due), rollups.roll_day)
            waiting += rollups.waiting(connection, due)
        self._metrics.rollups_waiting.set(waiting)
        self._metrics.forward_queue.set(sum(settle(connection, stream) for stream in self._logged))
        self._note_progress()

    def _roll_some(self, unit: str, pieces: list[Piece], roll: Callable[[psycopg.Connection, Piece], bool]) -> None:
        for piece in pieces:
            started_s = self._clock.monotonic_s()
            if self._stopped.is_set() or not roll(self._postgres.connection(), piece):
                return
            seconds = self._clock.monotonic_s() - started_s
            self._metrics.rollup_seconds.labels(unit).observe(seconds)
            self._note_progress()
            self._stopped.wait(seconds * IDLE_SHARE)

    def _note_progress(self) -> None:
        self._metrics.rollup_progress.set(self._clock.now_ms() / 1000)

    def _note_failure(self, error: psycopg.Error) -> None:
        self._postgres.close()
        if not self._failing:
            log.warning("could not roll up, trying on: %s", type(error).__name__)
        self._failing = True
