"""F1: kill -9 of the worker in mid-stream, several times."""

from __future__ import annotations

from tests.fault.case import Case, Workload
from tests.fault.stage import Stage

KILLS, KILLS_LONG = 2, 5
APART_S, APART_LONG_S = (2.0, 5.0), (20.0, 50.0)
"""Between two kills: from the middle of a recovery to long after it."""


def inject(stage: Stage) -> None:
    for _ in range(KILLS_LONG if stage.is_long else KILLS):
        stage.sleep(stage.chance.uniform(*(APART_LONG_S if stage.is_long else APART_S)))
        stage.kill("worker-0")


CASE = Case(
    id="F1",
    title="kill -9 of the worker in mid-stream",
    inject=inject,
    workload=Workload(events=6_000, events_long=300_000, rate_long=1_200),
)
