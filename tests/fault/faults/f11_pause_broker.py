"""F11: the broker is paused: its connections stay open and nothing is acknowledged that is not in the topic."""

from __future__ import annotations

from tests.fault.case import Case
from tests.fault.faults.f16_postgres_down import check_memory
from tests.fault.processes import look_at
from tests.fault.stage import KAFKA, SINKS, Stage

PAUSE_S, PAUSE_LONG_S = 12.0, 30.0
"""Past the session timeout of every group, and, in the long form, past every timeout of the gateway."""
IN_FLIGHT_S = 1.0
"""Acknowledgments that left Kafka before its pause have arrived by then."""


def inject(stage: Stage) -> None:
    stage.sleep(stage.chance.uniform(1.0, 2.0))
    held = look_at(stage, SINKS)
    stage.pause(KAFKA)
    stage.sleep(IN_FLIGHT_S)
    before = stage.ledger.acknowledged
    stage.sleep((PAUSE_LONG_S if stage.is_long else PAUSE_S) - IN_FLIGHT_S)
    if stage.ledger.acknowledged > before:
        raise AssertionError(f"{stage.ledger.acknowledged - before} events were acknowledged while kafka was paused")
    check_memory(stage, held)  # kafka-python polls without a pause while its heartbeat is overdue
    stage.resume(KAFKA)


def heal(stage: Stage) -> None:
    stage.resume(KAFKA)


CASE = Case(id="F11", title="the broker paused", inject=inject, heal=heal)
