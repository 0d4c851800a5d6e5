"""F16: Postgres is down for long: what is counted is shown all the same, the sinks say so, and nobody's memory grows."""

from __future__ import annotations

from tests.fault.case import Case
from tests.fault.checks import EXACT, memory_grown
from tests.fault.evidence import Held
from tests.fault.faults.f15_kill_postgres import queries_were_answered
from tests.fault.observer import events_shown
from tests.fault.processes import look_at, told
from tests.fault.stage import POSTGRES, SINKS, Stage

DOWN_S, DOWN_LONG_S = 20.0, 300.0
LOOKS = 4
SHOWN_WITHIN_S = 30.0
TOLD_WITHIN_S = 60.0


def inject(stage: Stage) -> None:
    stage.sleep(stage.chance.uniform(1.0, 2.0))
    stage.mark("stop postgres")
    stage.postgres.stop()
    before = [look_at(stage, name) for name in stage.process_names()]
    for _ in range(LOOKS):
        noted = stage.ledger.acknowledged
        stage.sleep((DOWN_LONG_S if stage.is_long else DOWN_S) / LOOKS)
        stage.wait_until(
            lambda noted=noted: events_shown(stage.gateway_port) > noted,  # type: ignore[misc]
            "an event that was acknowledged without postgres is counted",
            within_s=SHOWN_WITHIN_S,
        )
    stage.wait_until(lambda: not stage.is_ready(SINKS), "the sinks say that they are not ready", within_s=TOLD_WITHIN_S)
    for held in before:
        check_memory(stage, held)
    heal(stage)


def check_memory(stage: Stage, before: Held | None) -> None:
    """Fail where a process ended, or holds much more than it would without a fault.

    A worker that counts 300,000 events in the long form fills memtables meanwhile, with Postgres or without: what RocksDB says
    to hold is no growth of the outage, and `memory_grown` leaves it out.
    """
    after = look_at(stage, before.name) if before else None
    if before is None or after is None or after.pid != before.pid:
        raise AssertionError(f"a process ended in the outage: {before}, then {after}")
    stage.say(told(before, after))
    if problems := list(memory_grown(before, after)):
        raise AssertionError(f"in the outage {problems[0]}")


def heal(stage: Stage) -> None:
    stage.start_service(POSTGRES)


CASE = Case(
    id="F16",
    title="postgres down",
    inject=inject,
    heal=heal,
    checks=(*EXACT, queries_were_answered),
    recover_within_s=120.0,
)
