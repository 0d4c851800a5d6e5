"""Each combination of what Kafka, the workers and Postgres know leads to one place."""

from __future__ import annotations

from typing import Any

import pytest

from streams.dead_letters import DeadLetter, Position
from streams.reading import Bounds
from streams.whereabouts import Evidence, Sought, State, conclude

OFFSET = 50
POSITION = Position("user-tags.v1", 1, OFFSET)
SOUGHT = Sought(minute=27_000_000, refused="", is_young=True)
BAD = Sought(minute=None, refused="schema: price", is_young=True)


def a_letter(stage: str) -> DeadLetter:
    return DeadLetter(POSITION, "schema", "price: too large", stage, b"k", b"v", (), 0)


LETTER, SINKS_LETTER = a_letter("count"), a_letter("sinks")
MARK = POSITION._replace(offset=90)


def where(**overrides: Any) -> tuple[State, str]:
    """Return the conclusion about an event that is counted and in Postgres, but for the overrides."""
    fields: dict[str, Any] = {
        "position": POSITION, "bounds": Bounds(0, 100, 100), "record": SOUGHT, "counted": 100, "row_stored": True,
        "block_through": 99, "row_written": True, "row_expected": True, "block_written": True, "letter": None, "mark": None,
        "sink_lag": 0,
    }  # fmt: skip
    return conclude(Evidence(**(fields | overrides)))


EMPTY = SOUGHT._replace(is_empty=True)
DUPLICATE: dict[str, Any] = {"is_duplicate": True, "block_tells": False, "row_stored": False, "row_written": False}
NOWHERE: dict[str, Any] = {"row_stored": False, "block_through": None, "row_written": False, "block_written": False}


@pytest.mark.parametrize(
    ("evidence", "state"),
    [
        ({}, State.IN_POSTGRES),
        ({"row_written": False, "row_expected": False}, State.IN_POSTGRES),
        ({"row_written": False, "sink_lag": 3}, State.COUNTED),
        ({"block_written": False, "sink_lag": 3}, State.COUNTED),
        ({"row_written": False, "block_written": False, "sink_lag": None}, State.COUNTED),
        ({"letter": LETTER}, State.IN_POSTGRES),  # read again after a fix, from an open bucket
        ({"letter": SINKS_LETTER}, State.DEAD_LETTER),
        ({**NOWHERE, "record": BAD, "letter": LETTER}, State.DEAD_LETTER),
        ({**NOWHERE, "letter": LETTER}, State.DEAD_LETTER),  # it would pass now, and was not replayed
        ({**NOWHERE, "row_stored": None, "block_through": 99, "letter": LETTER}, State.DEAD_LETTER),
        ({**NOWHERE, "letter": LETTER, "mark": MARK}, State.REPLAYED),
        ({**NOWHERE, "bounds": Bounds(0, OFFSET, OFFSET), "record": None}, State.NEVER_WRITTEN),
        ({**NOWHERE, "bounds": Bounds(0, OFFSET, 100), "record": None}, State.UNDECIDED),
        ({**NOWHERE, "record": None}, State.NO_EVENT),
        ({**NOWHERE, "counted": OFFSET}, State.WAITING),
        ({"counted": OFFSET}, State.WAITING),  # its row is there a moment before its block
        ({**NOWHERE, "bounds": Bounds(60, 100, 100), "record": None}, State.FORGOTTEN),
        ({"bounds": Bounds(60, 100, 100), "record": None, "row_stored": None}, State.IN_POSTGRES),
        ({**NOWHERE, "bounds": Bounds(60, 100, 100), "record": None, "letter": LETTER}, State.DEAD_LETTER),
        ({**NOWHERE, "row_stored": None, "block_through": 99}, State.COUNTED),  # by the law: no row can tell
        ({**NOWHERE, "row_stored": None, "record": SOUGHT._replace(is_young=False)}, State.UNPROVEN),
        (NOWHERE, State.MISSING),
        ({**NOWHERE, "block_through": 99}, State.MISSING),  # aggregates have it, its profile does not
        ({**NOWHERE, "record": BAD}, State.MISSING),
        (DUPLICATE, State.DUPLICATE),  # blocks reach it, and none holds it
        ({**DUPLICATE, "row_stored": None}, State.DUPLICATE),
        ({**DUPLICATE, "counted": OFFSET}, State.WAITING),
        ({**DUPLICATE, "is_duplicate": False, "row_stored": None, "record": SOUGHT._replace(is_young=False)}, State.UNPROVEN),
        ({"block_tells": False, "row_stored": None}, State.IN_POSTGRES),
        ({**NOWHERE, "row_stored": True, "record": EMPTY}, State.COUNTED),
    ],
)
def test_every_combination_has_its_place(evidence: dict[str, Any], state: State) -> None:
    """The strongest evidence first: a stored row, a dead letter, then where the offset lies in the log."""
    found, sentence = where(**evidence)
    assert found is state, sentence
    assert sentence and not sentence.endswith(".")


def test_sentence_names_what_there_is_to_know() -> None:
    """It is read by somebody who looks for one event."""
    assert "no datapoints" in where(**(NOWHERE | {"row_stored": True}), record=EMPTY)[1]
    assert "3 changelog records behind" in where(row_written=False, sink_lag=3)[1]
    assert "its block" in where(row_written=False, sink_lag=3)[1]
    assert "user-tags.v1/1/90" in where(**NOWHERE, letter=LETTER, mark=MARK)[1]
    assert "schema" in where(**NOWHERE, letter=LETTER)[1]
    assert "50 behind" in where(**NOWHERE, counted=OFFSET)[1]
