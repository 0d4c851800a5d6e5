"""F17: Postgres has committed, and the answer that says so is lost: the sinks must find out, and not write it again.

That a commit was applied is seen from outside: Postgres calls the transaction committed whose answer was lost, and
`sink_offsets` is further than it was when the commit came by.
"""

from __future__ import annotations

from typing import NamedTuple

import psycopg

from tests.fault.case import Case
from tests.fault.stage import SINKS, Stage, System

TIMES, TIMES_LONG = 4, 40
CUT_WITHIN_S = 600.0
ENDED_WITHIN_S = 15.0
WRITING_SQL = """
    SELECT backend_xid::text FROM pg_stat_activity WHERE application_name = 'tally-sinks' AND backend_xid IS NOT NULL
"""
"""Transactions of the sinks that have written something and are not over; the proxy knows of one, the sinks have no more."""
FATE_SQL = "SELECT pg_xact_status(%s::xid8)"  # the server is new: transaction ids are in their first epoch
OFFSETS_SQL = "SELECT topic, partition, next_offset FROM tally.sink_offsets"

Offsets = dict[tuple[str, int], int]


class Caught(NamedTuple):
    """A commit on its way to Postgres: its transaction, and what was committed before it."""

    transaction: str
    offsets: Offsets


def inject(stage: Stage) -> None:
    stage.sleep(stage.chance.uniform(0.5, 1.5))
    times = TIMES_LONG if stage.is_long else TIMES
    applied = 0
    for _ in range(times):
        applied += lose_answer(stage)
        stage.sleep(stage.chance.uniform(0.1, 2.0))  # at times before the sinks have tried again
    stage.say(f"{applied} of {times} commits were applied, and their answers lost")
    assert applied, "no commit was applied without its answer: the case proves nothing"
    if (retries := stage.metric(SINKS, "tally_sink_retries_total")) < times:
        raise AssertionError(f"the sinks have tried {retries:.0f} transactions again, of {times} without an answer")


def lose_answer(stage: Stage) -> bool:
    """Lose the answer to the next commit, and say whether that commit was applied."""
    caught: list[Caught] = []
    cuts = stage.postgres_proxy.cuts

    def is_commit(seen: bytes) -> bool:
        if b"COMMIT" in seen:
            caught.extend(on_its_way(stage))
        return b"COMMIT" in seen

    stage.mark("the answer to the next commit is lost")
    stage.postgres_proxy.cut_when(is_commit, when="after", times=1)
    stage.wait_until(lambda: stage.postgres_proxy.cuts > cuts, "a commit cut", within_s=CUT_WITHIN_S)
    return any(was_applied(stage, commit) for commit in caught)


def on_its_way(stage: Stage) -> list[Caught]:
    """Return what is about to be committed; none where the commit is that of a transaction which has written nothing."""
    with psycopg.connect(stage.postgres.dsn) as connection:
        transactions = [row[0] for row in connection.execute(WRITING_SQL)]
        return [Caught(transaction, offsets_of(connection)) for transaction in transactions]


def was_applied(stage: Stage, commit: Caught) -> bool:
    """Say whether a transaction ended in a commit that moved offsets.

    One that moved none is the second try of a batch whose first commit was applied: it has locked the offsets, found them
    taken, and written nothing. Whether that is so for every row is what the comparison at the end says.
    """
    with psycopg.connect(stage.postgres.dsn, autocommit=True) as connection:

        def fate() -> str:
            row = connection.execute(FATE_SQL, [commit.transaction]).fetchone()
            return "" if row is None or row[0] == "in progress" else str(row[0])

        stage.wait_until(fate, "the transaction has ended", within_s=ENDED_WITHIN_S)
        if fate() != "committed":
            return False
        return any(offset > commit.offsets.get(place, 0) for place, offset in offsets_of(connection).items())


def offsets_of(connection: psycopg.Connection) -> Offsets:
    """Return the committed `sink_offsets`."""
    return {(topic, partition): offset for topic, partition, offset in connection.execute(OFFSETS_SQL)}


def heal(stage: Stage) -> None:
    stage.postgres_proxy.heal()


CASE = Case(
    id="F17",
    title="the answer to a commit lost",
    inject=inject,
    heal=heal,
    system=System(postgres_proxy=True),
)
