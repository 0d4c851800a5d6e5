"""B4: the same event comes twice: answers of Kafka are lost and producers send again; in the pipeline batches come again.

Also across a restart: the worker that has had the first one is killed, and its next life gets the second.
"""

from __future__ import annotations

from tests.fault.case import Case
from tests.fault.stage import Stage, System

EVERY = 12
TIMES, TIMES_LONG = 8, 60
REFETCH_S, REFETCH_LONG_S = 4.0, 60.0
REWINDS = "tally_rewinds_total"
REPLAYED = "tally_replayed_offsets_total"
WORKER = "worker-0"


def inject(stage: Stage) -> None:
    send_again(stage)
    stage.arm("refetch")
    stage.sleep(REFETCH_LONG_S if stage.is_long else REFETCH_S)
    assert stage.metric(WORKER, REWINDS) > 0, "nothing was read again: the case tests nothing"
    stage.kill(WORKER)
    send_again(stage)
    for again in (REPLAYED, REWINDS):  # of the new life: its metrics began at 0
        stage.wait_until(lambda metric=again: stage.metric(WORKER, metric) > 0, f"{again} after the restart")  # type: ignore[misc]


def send_again(stage: Stage) -> None:
    """Lose answers to what gateway and load have produced, and return when they are lost."""
    stage.mark("answers of kafka are lost")
    proxy, times = stage.kafka_proxy, TIMES_LONG if stage.is_long else TIMES
    cuts = proxy.cuts + times
    proxy.lose_answers(EVERY, times=times)
    stage.wait_until(lambda: proxy.cuts >= cuts, "as many answers are lost")


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
