"""F7: every worker is restarted in its turn, the next one when the one before is ready."""

from __future__ import annotations

from collections.abc import Iterator

from streams.topics import BUCKET_OFFSETS
from tests.fault.case import Case
from tests.fault.checks import EXACT
from tests.fault.evidence import Evidence
from tests.fault.stage import Stage, System

PARTITIONS = 4
ROUNDS_LONG = 3
ENDED_WITHIN_S = 25.0
"""The manager kills a process that takes 30 s: then it was no restart in order."""


def inject(stage: Stage) -> None:
    for _ in range(ROUNDS_LONG if stage.is_long else 1):
        for name in stage.workers():
            took_s = stage.stop(name)
            stage.say(f"{name} ended in {took_s:.1f} s")
            if took_s > ENDED_WITHIN_S:
                raise AssertionError(f"{name} took {took_s:.0f} s to stop")
            stage.start_again(name)


def replays_are_open_buckets(evidence: Evidence) -> Iterator[str]:
    """Each stop and each start moves each partition at most once, and a move reads at most one bucket of it again.

    Commits are rounded down to the start of a bucket of `BUCKET_OFFSETS` offsets, so whoever takes a partition over reads its
    open bucket again from there: up to `BUCKET_OFFSETS` - 1 offsets, on the average half of them. A partition that holds less
    than one bucket is read again from its start at every move.
    """
    moves = 2 * sum(mark.what.startswith("start ") for mark in evidence.marks)
    allowed = moves * PARTITIONS * BUCKET_OFFSETS
    if evidence.replayed > allowed:
        yield f"{evidence.replayed} offsets were read again; {moves} moves explain {allowed}"


CASE = Case(
    id="F7",
    title="rolling restart of 3 workers under load",
    inject=inject,
    system=System(workers=3, partitions=PARTITIONS),
    checks=(*EXACT, replays_are_open_buckets),
)
