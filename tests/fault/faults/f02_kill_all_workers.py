"""F2: kill -9 of all workers at once; their disks are kept."""

from __future__ import annotations

from tests.fault.case import Case
from tests.fault.stage import Stage, System


def inject(stage: Stage) -> None:
    stage.sleep(stage.chance.uniform(1.0, 3.0))
    stage.kill(*stage.workers())


CASE = Case(id="F2", title="kill -9 of all workers at once", inject=inject, system=System(workers=2))
