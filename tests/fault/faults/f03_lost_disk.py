"""F3: kill -9, and the disk is lost: everything comes back from the changelog."""

from __future__ import annotations

from tests.fault.case import Case
from tests.fault.stage import Stage


def inject(stage: Stage) -> None:
    stage.sleep(stage.chance.uniform(1.0, 3.0))
    stage.lose_disk("worker-0")


CASE = Case(id="F3", title="kill -9 of the worker and loss of its disk", inject=inject)
