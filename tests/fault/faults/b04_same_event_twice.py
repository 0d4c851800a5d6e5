"""B4: the same event comes twice: answers of Kafka are lost and producers send again; in the pipeline batches come again."""

from __future__ import annotations

from tests.fault.case import Case
from tests.fault.stage import Stage, System

EVERY = 12
TIMES, TIMES_LONG = 8, 60
REFETCH_S, REFETCH_LONG_S = 5.0, 60.0
REWINDS = "tally_rewinds_total"


def inject(stage: Stage) -> None:
    stage.mark("answers of kafka are lost")
    stage.kafka_proxy.lose_answers(EVERY, times=TIMES_LONG if stage.is_long else TIMES)
    stage.wait_until(lambda: stage.kafka_proxy.cuts >= (TIMES_LONG if stage.is_long else TIMES), "as many answers are lost")
    stage.arm("refetch")
    stage.sleep(REFETCH_LONG_S if stage.is_long else REFETCH_S)
    assert stage.metric("worker-0", REWINDS) > 0, "nothing was read again: the case tests nothing"


def heal(stage: Stage) -> None:
    stage.kafka_proxy.heal()
    stage.disarm()


CASE = Case(
    id="B4",
    title="the same event twice",
    inject=inject,
    heal=heal,
    system=System(app="tests.fault.refetching", kafka_proxy_of=("load", "gateway")),
)
