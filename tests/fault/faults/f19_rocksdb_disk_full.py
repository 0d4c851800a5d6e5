"""F19: the disk of a worker's RocksDB is full: the worker ends, and again whenever it is started, until there is space."""

from __future__ import annotations

from agents.guard import EXIT_CODE
from tests.fault.case import Case
from tests.fault.small_disk import SmallDisk
from tests.fault.stage import Stage, System

SIZE_MIB = 256
WORKER = "worker-0"
ENDS_WITHIN_S = 60.0
FULL_S, FULL_LONG_S = (3.0, 10.0), (60.0, 120.0)
"""After the first end: from a start that meets the full disk to several."""
ENDED_BY_ITSELF = f"exit status {EXIT_CODE}"


def disk_of(stage: Stage) -> SmallDisk:
    return SmallDisk(stage.home / WORKER, size_mib=SIZE_MIB)


def prepare(stage: Stage) -> None:
    disk = disk_of(stage)
    stage.on_close(disk.mount().unmount)


def inject(stage: Stage) -> None:
    stage.sleep(stage.chance.uniform(0.5, 2.0))
    stage.mark(f"fill the disk of {WORKER}")
    disk_of(stage).fill()
    stage.wait_until(lambda: stage.ends_of(WORKER), f"{WORKER} ended", within_s=ENDS_WITHIN_S)
    assert "No space left on device" in stage.log_of(WORKER), "it ended for another reason"
    stage.wait_until(lambda: stage.pid(WORKER), f"{WORKER} is started again")
    disk_of(stage).fill()
    stage.sleep(stage.chance.uniform(*(FULL_LONG_S if stage.is_long else FULL_S)))
    others = set(stage.ends_of(WORKER)) - {ENDED_BY_ITSELF}
    assert not others, f"{WORKER} did not end by itself: {others}"


def heal(stage: Stage) -> None:
    disk_of(stage).free()


CASE = Case(
    id="F19",
    title="the disk of a worker's RocksDB is full",
    prepare=prepare,
    inject=inject,
    heal=heal,
    system=System(app="tests.fault.small_memtables"),
    needs_root=True,
    allowed_errors=(r"the worker stops.*No space left on device",),
)
