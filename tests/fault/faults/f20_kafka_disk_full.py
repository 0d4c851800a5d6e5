"""F20: the disk of Kafka is full: it takes nothing more and ends; then there is space again, and it is started."""

from __future__ import annotations

from tests.fault.by_hand import post_event
from tests.fault.case import Case
from tests.fault.small_disk import SmallDisk
from tests.fault.stage import KAFKA, Stage

SIZE_MIB = 256
FULL_S, FULL_LONG_S = 5.0, 30.0
REFUSED_WITHIN_S = 40.0


def disk_of(stage: Stage) -> SmallDisk:
    return SmallDisk(stage.kafka.data, size_mib=SIZE_MIB)


def prepare(stage: Stage) -> None:
    disk = disk_of(stage)
    stage.on_close(disk.mount().unmount)


def inject(stage: Stage) -> None:
    stage.sleep(stage.chance.uniform(0.5, 2.0))
    stage.mark("fill the disk of kafka")
    disk_of(stage).fill()
    stage.wait_until(lambda: not stage.pid(KAFKA), "kafka ended", within_s=REFUSED_WITHIN_S)
    stage.say("kafka ended")
    stage.wait_until(lambda: post_event(stage).status == 503, "the gateway says 503", within_s=REFUSED_WITHIN_S)
    answer = post_event(stage)
    assert answer.status == 503 and answer.headers.get("retry-after", "").isdigit(), f"no time to try again: {answer}"
    stage.sleep(FULL_LONG_S if stage.is_long else FULL_S)


def heal(stage: Stage) -> None:
    disk_of(stage).free()
    if not stage.kafka.is_running():
        stage.mark("start kafka")
        stage.kafka.start()


CASE = Case(
    id="F20",
    title="the disk of Kafka is full",
    prepare=prepare,
    inject=inject,
    heal=heal,
    needs_root=True,
)
