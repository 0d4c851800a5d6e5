"""Conclude where an event is from what Kafka, the workers and Postgres know of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from streams.dead_letters import SINKS_STAGE, DeadLetter, Position
from streams.reading import Bounds


class State(StrEnum):
    """Where an event can be; every value is documented in docs/operations.md."""

    NEVER_WRITTEN = "never_written"
    """The log has not come so far."""
    UNDECIDED = "undecided"
    """In a transaction, or behind one, that is neither committed nor aborted."""
    NO_EVENT = "no_event"
    """The offset holds no record: a transaction's marker, an aborted transaction, a compacted record."""
    WAITING = "waiting"
    """Kafka has acknowledged it, the workers have not counted it yet."""
    COUNTED = "counted"
    """The workers have counted it; Postgres has not all of it."""
    IN_POSTGRES = "in_postgres"
    """The workers have counted it, and Postgres has it."""
    DUPLICATE = "duplicate"
    """The same submission came before it, and counts in its place."""
    DEAD_LETTER = "dead_letter"
    """It could not be counted or written."""
    REPLAYED = "replayed"
    """It could not be counted, and was sent once more: it lies at another offset now."""
    FORGOTTEN = "forgotten"
    """Retention has removed the record, and whatever was made of it."""
    UNPROVEN = "unproven"
    """The workers have passed it, but what would show what became of it is past its retention."""
    MISSING = "missing"
    """The workers have passed it, and it is nowhere: a bug."""


class Sought(NamedTuple):
    """The record of the source topic, decoded.

    Attributes:
        minute: minutes since 1970 of its event time; None where it does not decode.
        refused: why it does not.
        is_young: whether everything that a worker stored of it must still be there.
        is_empty: whether it has nothing to count: neither a block nor a row of Postgres will tell of it.
    """

    minute: int | None
    refused: str
    is_young: bool
    is_empty: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What is known of one position.

    Attributes:
        bounds: of its partition.
        record: None where the topic holds none there.
        counted: offset before which the workers have counted everything.
        row_stored: whether a worker has its row; None where none would be kept so long, or at all.
        block_through: of the stored block of its minute and bucket, where that reaches it; from a worker.
        row_written: whether Postgres has its row.
        row_expected: whether Postgres keeps rows of events at all.
        block_written: whether Postgres has a version of its block that reaches it.
        letter: the dead letter made of it; mark: where that was replayed to.
        sink_lag: records of the changelogs of its partition that Postgres has not applied; None: Postgres was not asked.
        is_duplicate: whether a worker's store says so.
        block_tells: whether a block that reaches it must hold it: what is no event is a dead letter, and nothing is left out.
    """

    position: Position
    bounds: Bounds
    record: Sought | None
    counted: int
    row_stored: bool | None
    block_through: int | None
    row_written: bool
    row_expected: bool
    block_written: bool
    letter: DeadLetter | None
    mark: Position | None
    sink_lag: int | None
    is_duplicate: bool = False
    block_tells: bool = True


Conclusion = tuple[State, str]
"""Where the event is, and a sentence that says so."""


def conclude(evidence: Evidence) -> Conclusion:
    """Return where the event is."""
    return _by_what_was_made(evidence) or _by_the_log(evidence) or _by_nothing(evidence)


def _by_what_was_made(evidence: Evidence) -> Conclusion | None:
    """Conclude from rows, blocks and dead letters, if there are any."""
    letter = evidence.letter
    if letter is not None and letter.stage == SINKS_STAGE:
        return State.DEAD_LETTER, f"counted by the workers, but Postgres could not take it: {letter.reason}, {letter.detail}"
    if evidence.is_duplicate and evidence.position.offset < evidence.counted:
        return State.DUPLICATE, "a duplicate: the same submission came before it, and counts; ask for its user and time"
    if is_counted(evidence):
        return _counted(evidence)
    if letter is None:
        return None
    if evidence.mark is not None:
        return State.REPLAYED, f"a dead letter ({letter.reason}: {letter.detail}), replayed to {evidence.mark}: ask for that"
    return State.DEAD_LETTER, f"a dead letter of stage {letter.stage!r}: {letter.reason}, {letter.detail}"


def _by_the_log(evidence: Evidence) -> Conclusion | None:
    """Conclude from where the offset lies in the log, and how far that is counted."""
    offset, bounds = evidence.position.offset, evidence.bounds
    if offset >= bounds.end:
        return State.NEVER_WRITTEN, f"the partition ends at offset {bounds.end}: nothing was written there yet"
    if offset >= bounds.decided:
        return State.UNDECIDED, f"from offset {bounds.decided} on a transaction is open: read when it is committed or aborted"
    if offset < bounds.first:
        return State.FORGOTTEN, f"the topic holds nothing before offset {bounds.first}, and nothing else tells of it"
    if evidence.record is None:
        return State.NO_EVENT, "no record has this offset: a transaction's marker, an aborted one, or compacted"
    if offset < evidence.counted:
        return None
    behind = bounds.decided - evidence.counted
    return State.WAITING, f"acknowledged by Kafka, not counted yet: the workers are at {evidence.counted}, {behind} behind"


def _by_nothing(evidence: Evidence) -> Conclusion:
    """Conclude about a record that the workers are past, and that nothing tells of."""
    record = evidence.record
    assert record is not None
    if not record.is_young:
        old = "the workers are past it; rows and blocks so old are no longer kept, and no dead letter tells of it"
        return State.UNPROVEN, old
    if record.minute is None:
        return State.MISSING, f"the workers are past it, it does not decode ({record.refused}), and is no dead letter: a bug"
    return State.MISSING, "the workers are past it, and it is neither counted nor a dead letter: a bug, file an issue"


def is_counted(evidence: Evidence) -> bool:
    """Say whether it is in the aggregates: by its row; or by the law, where no row can tell and it is no dead letter."""
    if evidence.position.offset >= evidence.counted:  # a row may be there a moment before its block
        return False
    if evidence.row_stored or evidence.row_written:
        return True
    by_law = evidence.block_tells and (evidence.block_through is not None or evidence.block_written)
    return by_law and evidence.row_stored is None and evidence.letter is None


def _counted(evidence: Evidence) -> Conclusion:
    if evidence.record is not None and evidence.record.is_empty:
        return State.COUNTED, "counted; it has no datapoints, so neither a block nor a row of Postgres tells of it"
    if evidence.block_written and (evidence.row_written or not evidence.row_expected):
        return State.IN_POSTGRES, "counted, and in Postgres"
    if evidence.sink_lag is None:
        return State.COUNTED, "counted; Postgres was not asked"
    has = [name for name, there in (("its row", evidence.row_written), ("its block", evidence.block_written)) if there]
    lag = f"the sinks are {evidence.sink_lag} changelog records behind in this partition"
    old = "; days that are past their retention are dropped" if not evidence.sink_lag else ""
    return State.COUNTED, f"counted; Postgres has {' and '.join(has) or 'nothing of it'}: {lag}{old}"
