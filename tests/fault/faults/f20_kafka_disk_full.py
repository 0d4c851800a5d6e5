"""F20: the disk of Kafka is full: it takes nothing more and ends. Then the disk comes back read-only: Kafka cannot start.

In the long form the disk also becomes read-only while Kafka runs, which ends it too. The gateway refuses all the while and
says when to try again; when there is space that may be written, Kafka is started and all goes on.
"""

from __future__ import annotations

from tests.fault.by_hand import refused_for_now
from tests.fault.case import Case
from tests.fault.small_disk import SmallDisk
from tests.fault.stage import KAFKA, Stage

SIZE_MIB = 256
DOWN_S, DOWN_LONG_S = 2.0, 30.0
APART_LONG_S = (10.0, 20.0)
ENDED_WITHIN_S = 40.0
READ_ONLY = "Read-only file system"


def disk_of(stage: Stage) -> SmallDisk:
    return SmallDisk(stage.kafka.data, size_mib=SIZE_MIB)


def prepare(stage: Stage) -> None:
    disk = disk_of(stage)
    stage.on_close(disk.mount().unmount)


def inject(stage: Stage) -> None:
    if stage.is_long:
        stage.mark("the disk of kafka becomes read-only")
        disk_of(stage).forbid_writing()
        wait_for_end(stage)
        heal(stage)
        stage.sleep(stage.chance.uniform(*APART_LONG_S))
    stage.sleep(stage.chance.uniform(0.5, 2.0))
    stage.mark("fill the disk of kafka")
    disk_of(stage).fill()
    wait_for_end(stage)
    disk_of(stage).free()
    stage.mark("the disk of kafka has space, and is read-only")
    disk_of(stage).forbid_writing()
    start_in_vain(stage)
    refused_for_now(stage)


def wait_for_end(stage: Stage) -> None:
    """Return when Kafka has ended by itself and has been away for long enough to be missed."""
    stage.wait_until(lambda: not stage.pid(KAFKA), "kafka ended", within_s=ENDED_WITHIN_S)
    stage.say("kafka ended")
    refused_for_now(stage)
    stage.sleep(DOWN_LONG_S if stage.is_long else DOWN_S)


def start_in_vain(stage: Stage) -> None:
    """Start Kafka once, as a manager would, and see it end."""
    stage.kafka.prepare()
    stage.kafka._spawn()
    stage.wait_until(lambda: not stage.pid(KAFKA), "kafka ends again", within_s=ENDED_WITHIN_S)
    assert READ_ONLY in stage.log_of(KAFKA), "it ended for another reason"


def heal(stage: Stage) -> None:
    disk_of(stage).allow_writing()
    disk_of(stage).free()
    stage.start_service(KAFKA)


CASE = Case(
    id="F20",
    title="the disk of Kafka is full, then read-only",
    prepare=prepare,
    inject=inject,
    heal=heal,
    needs_root=True,
)
