"""B3: one producer sends nothing but bad events: the limit of dead letters ends the worker, which says how to go on."""

from __future__ import annotations

from tests.fault.by_hand import throw_dead
from tests.fault.case import Case
from tests.fault.stage import Stage, System

WORKER = "worker-0"
WINDOW_RECORDS = 1_000
RECORDS, RECORDS_LONG = 1_500, 20_000
"""Of each partition: beside the load far more than the share that is allowed."""
TOLD = "more than a share of 0.5"
HINT = "TALLY_DEAD_LETTERS_SHARE_MAX"
LET_THROUGH = {HINT: "1"}
LIMIT_WITHIN_S = 60.0


def inject(stage: Stage) -> None:
    stage.sleep(stage.chance.uniform(0.5, 1.5))
    records = [(b"k", b"nonsense", "not_json")] * (RECORDS_LONG if stage.is_long else RECORDS)
    for partition in range(stage.system.partitions):
        throw_dead(stage, records, partition=partition)
    stage.mark("nothing but nonsense from one producer")
    stage.wait_until(lambda: TOLD in stage.log_of(WORKER), "the worker ends at the limit", within_s=LIMIT_WITHIN_S)
    stage.wait_until(lambda: len(stage.ends_of(WORKER)) > 1, "it ends again after a start", within_s=LIMIT_WITHIN_S)
    assert f"{HINT}=1" in stage.log_of(WORKER), "it does not say how to go on"


def heal(stage: Stage) -> None:
    stage.start_with(WORKER, **LET_THROUGH)


def back_to_the_limit(stage: Stage) -> None:
    """Past the nonsense it goes on with the usual limit."""
    stage.start_with(WORKER)


CASE = Case(
    id="B3",
    title="nothing but bad events from one producer",
    inject=inject,
    heal=heal,
    afterwards=back_to_the_limit,
    system=System(settings={"TALLY_DEAD_LETTERS_WINDOW_RECORDS": str(WINDOW_RECORDS)}),
    allowed_errors=(rf"the worker stops: .* {TOLD}",),
)
