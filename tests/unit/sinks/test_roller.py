"""Whoever rolls up says when it last got on, so that one that stands still or fails is seen (alert RollupsStalled)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import psycopg
import pytest

from sinks import roller as roller_module
from sinks.roller import Roller
from sinks.rollups import EPOCH_DAY, Due, Piece
from streams.metrics import SinkMetrics
from tests.support.clock import SteppedClock

STARTED_S = 1_000
PIECE_S = 60


class Rolled:
    """Stands in for the hours and days of a stream: what is due, and how long each takes."""

    def __init__(self, clock: SteppedClock, due: list[Piece], answer: Callable[[], bool]) -> None:
        self._clock, self._due, self._answer = clock, due, answer

    def due_hours(self, connection: object, due: Due) -> list[Piece]:
        return self._due

    def due_days(self, connection: object, due: Due) -> list[Piece]:
        return []

    def waiting(self, connection: object, due: Due) -> int:
        return 0

    def roll_hour(self, connection: object, piece: Piece) -> bool:
        self._clock.step(PIECE_S)
        return self._answer()

    roll_day = roll_hour


class NoPostgres:
    """A connection that nobody uses."""

    def connection(self) -> None: ...

    def close(self) -> None: ...


def a_roller(clock: SteppedClock, metrics: SinkMetrics, rolled: Rolled) -> Roller:
    made = Roller((), cast("Any", NoPostgres()), quiet_s=0, metrics=metrics, clock=clock)
    made._rollups = [cast("Any", rolled)]
    return made


def progress_s(metrics: SinkMetrics) -> float | None:
    return metrics.registry.get_sample_value("tally_sink_rollup_progress_timestamp_seconds")


@pytest.fixture
def clock() -> SteppedClock:
    return SteppedClock(now_ms=STARTED_S * 1000)


def test_each_piece_is_progress_and_so_is_nothing_to_do(clock: SteppedClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hours of a long outage take long together, and nobody must be told that it stands still meanwhile."""
    monkeypatch.setattr(roller_module, "IDLE_SHARE", 0.0)
    metrics, seen = SinkMetrics(), list[float | None]()
    pieces = [Piece(EPOCH_DAY, start) for start in (0, 3_600, 7_200)]

    def note() -> bool:
        seen.append(progress_s(metrics))
        return True

    a_roller(clock, metrics, Rolled(clock, pieces, note))._roll_all()
    assert seen[1:] == [STARTED_S + PIECE_S, STARTED_S + 2 * PIECE_S]
    assert progress_s(metrics) == STARTED_S + 3 * PIECE_S
    clock.step(600)
    a_roller(clock, metrics, Rolled(clock, [], note))._roll_all()
    assert progress_s(metrics) == STARTED_S + 3 * PIECE_S + 600


@pytest.mark.parametrize("error", [psycopg.OperationalError("away"), psycopg.errors.QueryCanceled("too long")])
def test_failure_is_no_progress(clock: SteppedClock, monkeypatch: pytest.MonkeyPatch, error: psycopg.Error) -> None:
    """Also of a single hour that fails again and again: those behind it wait. Before the first try it counts from the start."""
    monkeypatch.setattr(roller_module, "RETRY_INTERVAL_S", 0.0)
    metrics, tries = SinkMetrics(), list[float | None]()

    def fail() -> bool:
        tries.append(progress_s(metrics))
        if len(tries) == 3:
            made._stopped.set()
        raise error

    made = a_roller(clock, metrics, Rolled(clock, [Piece(EPOCH_DAY, 0)], fail))
    made.run()
    assert tries == [STARTED_S] * 3
    assert progress_s(metrics) == STARTED_S
