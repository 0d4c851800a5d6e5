"""F6: a worker is paused past its session, another one takes over, and the zombie wakes; then all disks are lost."""

from __future__ import annotations

from tests.fault.case import Case
from tests.fault.stage import Stage, System

PAUSE_S, PAUSE_LONG_S = 12.0, 45.0
"""Twice the session timeout of each form."""
TAKEN_OVER_WITHIN_S = 60.0


def inject(stage: Stage) -> None:
    stage.sleep(stage.chance.uniform(0.5, 2.0))
    stage.pause("worker-0")
    stage.sleep(PAUSE_LONG_S if stage.is_long else PAUSE_S)
    stage.wait_until(
        lambda: stage.metric("worker-1", "tally_partitions_assigned") == stage.system.partitions,
        "worker-1 owns all partitions",
        within_s=TAKEN_OVER_WITHIN_S,
    )
    stage.resume("worker-0")


def heal(stage: Stage) -> None:
    stage.resume("worker-0")


def rebuild(stage: Stage) -> None:
    """What the zombie has written into the changelogs is all that the new stores are made of."""
    stage.lose_disk(*stage.workers())
    stage.wait_ready(*stage.workers())


CASE = Case(
    id="F6",
    title="a worker paused past its session wakes as a zombie",
    inject=inject,
    heal=heal,
    afterwards=rebuild,
    allowed_errors=(
        "Thread keepalive is not responding",
        "Heartbeat session expired - marking coordinator dead",
    ),
    system=System(workers=2, settings_long={"TALLY_WORKER_SESSION_TIMEOUT_S": "20"}),
)
