"""F10: kill -9 of the broker and its restart: the gateway refuses meanwhile, and nothing acknowledged is gone afterwards.

Each refusal says when to try again.
"""

from __future__ import annotations

from tests.fault.by_hand import refused_for_now
from tests.fault.case import Case
from tests.fault.ledger import Outcome
from tests.fault.stage import GATEWAY, KAFKA, Stage, System

ROUNDS_LONG = 3
DOWN_S, DOWN_LONG_S = (0.5, 2.0), (5.0, 25.0)
"""Beyond the time after which the gateway refuses."""
REFUSED_WITHIN_S = 30.0
APART_S = (10.0, 20.0)


def inject(stage: Stage) -> None:
    for number in range(ROUNDS_LONG if stage.is_long else 1):
        stage.sleep(stage.chance.uniform(*(APART_S if number else (1.0, 2.0))))
        refused = refusals(stage)
        stage.kill(KAFKA)
        refused_for_now(stage)
        stage.wait_until(lambda before=refused: refusals(stage) > before, "the gateway refuses", within_s=REFUSED_WITHIN_S)  # type: ignore[misc]
        stage.wait_until(lambda: not stage.is_ready(GATEWAY), "the gateway is not ready", within_s=REFUSED_WITHIN_S)
        stage.sleep(stage.chance.uniform(*(DOWN_LONG_S if stage.is_long else DOWN_S)))
        heal(stage)


def refusals(stage: Stage) -> int:
    """Return how many events were answered `503`, with the promise that they are not stored."""
    return sum(entry.outcome is Outcome.REFUSED for entry in stage.ledger.entries())


def heal(stage: Stage) -> None:
    stage.start_service(KAFKA)


CASE = Case(
    id="F10",
    title="kill -9 of the broker, and restart",
    inject=inject,
    heal=heal,
    system=System(settings={"TALLY_GATEWAY_ACKNOWLEDGE_TIMEOUT_S": "4"}),
)
