"""F15: kill -9 of Postgres in the middle of a transaction of the sinks, and its restart; queries do not notice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import psycopg

from tests.fault.case import Case
from tests.fault.checks import EXACT
from tests.fault.evidence import Evidence
from tests.fault.stage import POSTGRES, Stage

ROUNDS, ROUNDS_LONG = 2, 6
DOWN_S, DOWN_LONG_S = (0.5, 3.0), (1.0, 20.0)
IN_TRANSACTION_WITHIN_S = 30.0
WRITING_SQL = """
    SELECT 1 FROM pg_stat_activity WHERE application_name = 'tally-sinks' AND backend_xid IS NOT NULL
"""
"""A transaction has an id once it has written something."""


def inject(stage: Stage) -> None:
    for _ in range(ROUNDS_LONG if stage.is_long else ROUNDS):
        stage.sleep(stage.chance.uniform(1.0, 2.0))
        wait_for_transaction(stage)
        stage.kill(POSTGRES)
        stage.sleep(stage.chance.uniform(*(DOWN_LONG_S if stage.is_long else DOWN_S)))
        heal(stage)


def wait_for_transaction(stage: Stage) -> None:
    """Return while the sinks are writing, as far as can be seen from outside."""
    with closing(psycopg.connect(stage.postgres.dsn, autocommit=True)) as connection:
        stage.wait_until(
            lambda: connection.execute(WRITING_SQL).fetchone(), "the sinks write", within_s=IN_TRANSACTION_WITHIN_S
        )


def heal(stage: Stage) -> None:
    stage.start_service(POSTGRES)


def queries_were_answered(evidence: Evidence) -> Iterator[str]:
    """Every query was, from the first kill to the last start."""
    start_s, end_s = evidence.marks[0].at_s, evidence.marks[-1].at_s
    for sample in evidence.samples:
        if start_s <= sample.at_s <= end_s and sample.counts is None:
            yield f"no answer {sample.at_s - start_s:.1f} s after the first kill of postgres"


CASE = Case(
    id="F15",
    title="kill -9 of postgres in mid-transaction, and restart",
    inject=inject,
    heal=heal,
    checks=(*EXACT, queries_were_answered),
)
