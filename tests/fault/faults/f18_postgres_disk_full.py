"""F18: the disk of Postgres is full: it refuses rows, then it panics without room for its log; then there is space again."""

from __future__ import annotations

from contextlib import suppress

import psycopg

from tests.fault.case import Case
from tests.fault.small_disk import SmallDisk
from tests.fault.stage import POSTGRES, Stage

SIZE_MIB = 256
"""An empty server takes 60 MiB, and a segment of its log 16."""
FULL_S, FULL_LONG_S = 3.0, 20.0
SEGMENTS_MAX = 20
"""More than are ever made ahead."""
FULL = 'tally_sink_retries_total{sqlstate="53"}'
NEXT_SEGMENT_SQL = "SELECT pg_switch_wal(), pg_logical_emit_message(true, 'full', '')"


def disk_of(stage: Stage) -> SmallDisk:
    return SmallDisk(stage.postgres.data, size_mib=SIZE_MIB)


def prepare(stage: Stage) -> None:
    stage.postgres.prepare()
    disk = disk_of(stage)
    stage.on_close(disk.mount().unmount)


def inject(stage: Stage) -> None:
    stage.sleep(stage.chance.uniform(0.5, 2.0))
    stage.mark("fill the disk of postgres")
    disk_of(stage).fill()
    stage.wait_until(lambda: FULL in stage.ask("sinks", "/metrics")[1].decode(), "the sinks were told that the disk is full")
    stage.sleep(FULL_LONG_S if stage.is_long else FULL_S)
    stage.mark("let postgres begin new segments of its log")
    with suppress(psycopg.OperationalError), psycopg.connect(stage.postgres.dsn, autocommit=True) as connection:
        for _ in range(SEGMENTS_MAX):
            connection.execute(NEXT_SEGMENT_SQL)
    stage.wait_until(lambda: "PANIC" in stage.log_of("postgres"), "postgres panicked")
    stage.sleep(FULL_LONG_S if stage.is_long else FULL_S)


def heal(stage: Stage) -> None:
    disk_of(stage).free()
    stage.wait_until(lambda: stage.postgres.is_ready() or not stage.postgres.is_running(), "postgres lives or has ended")
    stage.start_service(POSTGRES)


CASE = Case(
    id="F18",
    title="the disk of Postgres is full",
    prepare=prepare,
    inject=inject,
    heal=heal,
    needs_root=True,
)
