"""F16: Postgres is down for long: what is counted is shown all the same, the sinks say so, and nobody's memory grows."""

from __future__ import annotations

import resource
from pathlib import Path

from tests.fault.case import Case
from tests.fault.checks import EXACT
from tests.fault.faults.f15_kill_postgres import queries_were_answered
from tests.fault.observer import counts_now
from tests.fault.stage import GATEWAY, POSTGRES, SINKS, Stage

DOWN_S, DOWN_LONG_S = 20.0, 300.0
LOOKS = 4
SHOWN_WITHIN_S = 30.0
TOLD_WITHIN_S = 60.0
GROWTH_BYTES_MAX = 96 * 1024 * 1024
"""Below what the events of the long form weigh in memory, above the buffers of a consumer."""


def inject(stage: Stage) -> None:
    stage.sleep(stage.chance.uniform(1.0, 2.0))
    stage.mark("stop postgres")
    stage.postgres.stop()
    names = (SINKS, GATEWAY, *stage.workers())
    before = {name: (stage.pid(name), resident_bytes(stage.pid(name))) for name in names}
    for _ in range(LOOKS):
        noted = stage.ledger.acknowledged
        stage.sleep((DOWN_LONG_S if stage.is_long else DOWN_S) / LOOKS)
        stage.wait_until(
            lambda noted=noted: shown(stage) > noted,  # type: ignore[misc]
            "an event that was acknowledged without postgres is counted",
            within_s=SHOWN_WITHIN_S,
        )
    stage.wait_until(lambda: not stage.is_ready(SINKS), "the sinks say that they are not ready", within_s=TOLD_WITHIN_S)
    for name, (pid, bytes_before) in before.items():
        check_memory(stage, name, pid, bytes_before)
    heal(stage)


def shown(stage: Stage) -> int:
    """Return how many events HTTP shows now."""
    return sum((counts_now(stage.gateway_port) or {}).values())


def check_memory(stage: Stage, name: str, pid: int, bytes_before: int) -> None:
    """Fail where a process ended, or holds much more than before."""
    if stage.pid(name) != pid:
        raise AssertionError(f"{name} ended in the outage")
    grown = resident_bytes(pid) - bytes_before
    stage.say(f"{name} holds {grown / 1024 / 1024:+.0f} MiB")
    if grown > GROWTH_BYTES_MAX:
        raise AssertionError(f"{name} grew by {grown} bytes in the outage")


def resident_bytes(pid: int) -> int:
    """Return the resident set of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


def heal(stage: Stage) -> None:
    if not stage.postgres.is_running():
        stage.mark(f"start {POSTGRES}")
        stage.postgres.start()


CASE = Case(
    id="F16",
    title="postgres down",
    inject=inject,
    heal=heal,
    checks=(*EXACT, queries_were_answered),
    recover_within_s=120.0,
)
