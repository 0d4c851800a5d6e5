"""F17: Postgres has committed, and the answer that says so is lost: the sinks must find out, and not write it again."""

from __future__ import annotations

from tests.fault.case import Case
from tests.fault.stage import SINKS, Stage, System

TIMES, TIMES_LONG = 4, 40
CUT_WITHIN_S = 600.0


def inject(stage: Stage) -> None:
    stage.sleep(stage.chance.uniform(0.5, 1.5))
    times = TIMES_LONG if stage.is_long else TIMES
    for _ in range(times):
        cuts = stage.postgres_proxy.cuts
        stage.mark("the answer to the next commit is lost")
        stage.postgres_proxy.cut_when(lambda seen: b"COMMIT" in seen, when="after", times=1)
        stage.wait_until(lambda before=cuts: stage.postgres_proxy.cuts > before, "a commit cut", within_s=CUT_WITHIN_S)  # type: ignore[misc]
        stage.sleep(stage.chance.uniform(0.1, 2.0))  # at times before the sinks have tried again
    if (retries := stage.metric(SINKS, "tally_sink_retries_total")) < times:
        raise AssertionError(f"the sinks have tried {retries:.0f} transactions again, of {times} without an answer")


def heal(stage: Stage) -> None:
    stage.postgres_proxy.heal()


CASE = Case(
    id="F17",
    title="the answer to a commit lost",
    inject=inject,
    heal=heal,
    system=System(postgres_proxy=True),
)
