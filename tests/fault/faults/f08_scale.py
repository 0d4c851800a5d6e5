"""F8: from one worker to three and back; three are more than there are partitions."""

from __future__ import annotations

from tests.fault.case import Case
from tests.fault.stage import Stage, System

SETTLE_S = (1.0, 3.0)
TAKEN_BACK_WITHIN_S = 60.0


def inject(stage: Stage) -> None:
    added = stage.workers(3)[1:]
    stage.sleep(stage.chance.uniform(*SETTLE_S))
    stage.start_again(*added)  # which waits for `/ready` of the one that has no partition, too
    stage.sleep(stage.chance.uniform(*SETTLE_S))
    for name in added:
        stage.stop(name)
    stage.wait_until(
        lambda: stage.metric("worker-0", "tally_partitions_assigned") == stage.system.partitions,
        "worker-0 has all partitions back",
        within_s=TAKEN_BACK_WITHIN_S,
    )


CASE = Case(
    id="F8",
    title="1, 3, 1 workers for 2 partitions",
    inject=inject,
    system=System(workers=1, workers_max=3, partitions=2),
)
