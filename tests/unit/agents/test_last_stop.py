"""Why a worker stopped itself is known after its restart: a gauge of a process that is gone cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.last_stop import BUG, REASONS, LastStops, reason_of
from streams.errors import DeadLetterLimitError, KafkaUnavailableError, TallyError
from tests.support.clock import SteppedClock


def test_reasons_survive_the_process_each_with_its_time(tmp_path: Path) -> None:
    """The next life reads what the last one wrote; a reason keeps its last time."""
    clock = SteppedClock(now_ms=5_000)
    stops = LastStops(tmp_path / "gone" / "stops.json", clock)
    assert stops.read() == {}
    stops.note(DeadLetterLimitError("x"))
    clock.step(60)
    stops.note(KafkaUnavailableError("x"))
    assert LastStops(tmp_path / "gone" / "stops.json", clock).read() == {"dead_letter_limit": 5.0, "kafka": 65.0}


@pytest.mark.parametrize("text", ["", "[1]", '{"rubbish": 1}', '"x'])
def test_damaged_file_says_nothing(tmp_path: Path, text: str) -> None:
    """It must never keep a worker from its start, nor make a label of its own."""
    (tmp_path / "stops.json").write_text(text)
    assert LastStops(tmp_path / "stops.json", SteppedClock()).read() == {}


def test_disk_that_refuses_does_not_keep_the_process_alive(tmp_path: Path) -> None:
    """A full disk may be why it ends."""
    (tmp_path / "file").write_text("")
    LastStops(tmp_path / "file" / "stops.json", SteppedClock()).note(TallyError("x"))


def test_every_reason_is_told_by_its_own_kind() -> None:
    """A subclass must not hide behind its base."""
    assert [reason_of(kind("x")) for kind in REASONS] == list(REASONS.values())
    assert reason_of(ZeroDivisionError()) == BUG
