"""F9: a worker is restarted every three seconds, in order or killed: there is progress, and nothing is left lying about."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from tests.fault.case import Case
from tests.fault.checks import EXACT
from tests.fault.evidence import Evidence
from tests.fault.stage import Stage, System

EVERY_S = 3.0
RESTARTS, RESTARTS_LONG = 4, 20
SLICE_S = 20.0


def inject(stage: Stage) -> None:
    for _ in range(RESTARTS_LONG if stage.is_long else RESTARTS):
        name = stage.chance.choice(stage.workers())
        leave_unfinished_options(stage, name)
        stage.chance.choice((stage.kill, stage.terminate))(name)
        stage.sleep(EVERY_S)


def leave_unfinished_options(stage: Stage, name: str) -> None:
    """Leave what a kill in the middle of opening a database does, about one in thirty here; the next start removes it."""
    for database in (stage.home / name).glob("*/tables/*.db"):
        (database / "OPTIONS-000001.dbtmp").write_text("half", encoding="ascii")


def progress_in_each_slice(evidence: Evidence) -> Iterator[str]:
    """In each slice of the storm more came into Postgres: it asks no worker, and a view wants all of them at once."""
    start_s, end_s = evidence.marks[0].at_s, evidence.marks[-1].at_s
    slices = max(1, round((end_s - start_s) / SLICE_S))
    edges_s = [start_s + (end_s - start_s) * number / slices for number in range(slices + 1)]
    stored = [(sample.at_s, sample.stored) for sample in evidence.samples if sample.stored is not None]
    for before_s, after_s in pairwise(edges_s):
        counts = [count for at_s, count in stored if before_s <= at_s < after_s]
        if not counts or counts[-1] <= counts[0]:
            yield f"no progress from {before_s - start_s:.0f} to {after_s - start_s:.0f} s of the storm: {counts}"


CASE = Case(
    id="F9",
    title="a worker restarted every 3 s",
    inject=inject,
    system=System(workers=2),
    checks=(*EXACT, progress_in_each_slice),
)
