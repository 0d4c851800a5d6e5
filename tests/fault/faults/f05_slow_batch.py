"""F5: one batch is slow, later ones of other partitions are done; then kill -9. Stock Faust skips the slow one (faust#606)."""

from __future__ import annotations

from tests.fault.case import Case
from tests.fault.stage import Stage, System

SLOW_S, SLOW_LONG_S = 4.0, 15.0
"""Several commits long."""


def inject(stage: Stage) -> None:
    stage.sleep(stage.chance.uniform(0.5, 1.5))
    stage.fail_at("slow")
    stage.sleep(SLOW_LONG_S if stage.is_long else SLOW_S)
    stage.kill("worker-0")


CASE = Case(
    id="F5",
    title="a slow batch, then kill -9 (faust#606)",
    inject=inject,
    system=System(app="tests.fault.failpoints"),
)
