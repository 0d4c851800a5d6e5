"""F12: nothing passes between one worker and the broker, half-open, until the group has given its partitions away."""

from __future__ import annotations

from tests.fault.case import Case
from tests.fault.stage import Stage, System

CUT_OFF, LEFT = "worker-0", "worker-1"
DARK_S, DARK_LONG_S = 10.0, 30.0
"""Past the session timeout of each form."""
TAKEN_OVER_WITHIN_S = 60.0
REJOINED_WITHIN_S = 60.0


def inject(stage: Stage) -> None:
    """Cut one worker off and heal the line: what was under way is passed on late, or lost with its connections."""
    drops = [False, True]
    stage.chance.shuffle(drops)
    for drop in drops[: 2 if stage.is_long else 1]:
        stage.sleep(stage.chance.uniform(0.5, 2.0))
        stage.mark(f"nothing passes between {CUT_OFF} and kafka{', and it is lost' if drop else ''}")
        stage.kafka_proxy.blackhole(drop=drop)
        stage.sleep(DARK_LONG_S if stage.is_long else DARK_S)
        stage.wait_until(
            lambda: stage.metric(LEFT, "tally_partitions_assigned") == stage.system.partitions,
            f"{LEFT} owns all partitions",
            within_s=TAKEN_OVER_WITHIN_S,
        )
        stage.mark("the line is whole again")
        stage.kafka_proxy.heal()
        stage.wait_until(lambda: has_rejoined(stage), f"{CUT_OFF} has partitions again", within_s=REJOINED_WITHIN_S)


def has_rejoined(stage: Stage) -> bool:
    """Say whether both workers share the partitions, each of which one of them owns."""
    owned = [stage.metric(name, "tally_partitions_assigned") for name in stage.workers()]
    return min(owned) > 0 and sum(owned) == stage.system.partitions and all(map(stage.is_ready, stage.workers()))


def heal(stage: Stage) -> None:
    stage.kafka_proxy.heal()


CASE = Case(
    id="F12",
    title="a worker cut off from the broker",
    inject=inject,
    heal=heal,
    system=System(workers=2, kafka_proxy_of=(CUT_OFF,), settings_long={"TALLY_WORKER_SESSION_TIMEOUT_S": "20"}),
)
