"""F4: kill -9 between the write of the tables and the commit of the offsets, at each step in between."""

from __future__ import annotations

from tests.fault.case import Case
from tests.fault.stage import Stage, System

POINTS = ("sent", "blocks_stored", "stored")


def inject(stage: Stage) -> None:
    points = [*POINTS] * (3 if stage.is_long else 1)
    stage.chance.shuffle(points)
    for point in points:
        stage.sleep(stage.chance.uniform(0.5, 1.5))
        stage.fail_at(point)
        stage.wait_ready("worker-0")


CASE = Case(
    id="F4",
    title="kill -9 between table write and commit",
    inject=inject,
    system=System(app="tests.fault.failpoints"),
)
