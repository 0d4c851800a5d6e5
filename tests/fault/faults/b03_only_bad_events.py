"""B3: one producer sends nothing but bad events: the limit of dead letters ends a worker, which says how to go on.

The limit is one of a worker, not of a partition: all partitions of that worker wait with the bad one, and queries, which
want every partition, are answered 503. Those of other workers go on: their events reach Postgres all the while. That is so
as long as the worker is back within its session, and so is given the same partitions; where its start takes longer, the bad
partition moves, and ends the next worker too.
"""

from __future__ import annotations

import json
from itertools import chain

import psycopg

from tests.fault.by_hand import throw_dead
from tests.fault.case import Case
from tests.fault.stage import Stage, System

WORKERS = 2
WINDOW_RECORDS = 1_000
RECORDS, RECORDS_LONG = 6_000, 80_000
"""Into one partition: beside the load far more than the share that is allowed, and that in several windows."""
TOLD = "more than a share of 0.5"
HINT = "TALLY_DEAD_LETTERS_SHARE_MAX"
LET_THROUGH = {HINT: "1"}
SETTINGS = {
    "TALLY_DEAD_LETTERS_WINDOW_RECORDS": str(WINDOW_RECORDS),
    "TALLY_WORKER_SESSION_TIMEOUT_S": "60",  # longer than a start takes on a busy machine
}
LIMIT_WITHIN_S = 60.0
GOES_ON_WITHIN_S = 10.0
STORED_SQL = "SELECT source_partition, count(*) FROM tally.user_events GROUP BY 1"


def inject(stage: Stage) -> None:
    stage.sleep(stage.chance.uniform(0.5, 1.5))
    owned = owners(stage)
    bad = stage.chance.randrange(stage.system.partitions)
    stage.mark(f"nothing but nonsense from one producer, into partition {bad}")
    throw_dead(stage, [(b"k", b"nonsense", "not_json")] * (RECORDS_LONG if stage.is_long else RECORDS), partition=bad)
    [stopped] = [name for name, partitions in owned.items() if bad in partitions]
    [other] = set(owned) - {stopped}
    stage.wait_until(lambda: TOLD in stage.log_of(stopped), f"{stopped} ends at the limit", within_s=LIMIT_WITHIN_S)
    before = stored_by_partition(stage)
    stage.wait_until(lambda: len(stage.ends_of(stopped)) > 1, "it ends again after a start", within_s=LIMIT_WITHIN_S)
    assert f"{HINT}=1" in stage.log_of(stopped), "it does not say how to go on"
    assert not stage.ends_of(other), f"{other} has ended too, and had no bad event"
    stage.wait_until(
        lambda: all(stored_by_partition(stage)[partition] > before[partition] for partition in owned[other]),
        f"every partition of {other} goes on",
        within_s=GOES_ON_WITHIN_S,
    )


def owners(stage: Stage) -> dict[str, list[int]]:
    """Return the partitions of each worker, as they say themselves, when each partition has one."""
    owned: dict[str, list[int]] = {}

    def all_are_owned() -> bool:
        owned.update((name, json.loads(stage.ask(name, "/ready")[1])["partitions"]) for name in stage.workers())
        return sorted(chain.from_iterable(owned.values())) == list(range(stage.system.partitions))

    stage.wait_until(all_are_owned, "every partition has one owner")
    return owned


def stored_by_partition(stage: Stage) -> dict[int, int]:
    """Return how many events of each partition Postgres holds."""
    with psycopg.connect(stage.postgres.dsn) as connection:
        return dict(connection.execute(STORED_SQL).fetchall())


def stopped_of(stage: Stage) -> list[str]:
    """Return the workers that the limit has ended."""
    return [name for name in stage.workers() if TOLD in stage.log_of(name)]


def heal(stage: Stage) -> None:
    for name in stopped_of(stage):
        stage.start_with(name, **LET_THROUGH)


def back_to_the_limit(stage: Stage) -> None:
    """Past the nonsense it goes on with the usual limit."""
    for name in stopped_of(stage):
        stage.start_with(name)


CASE = Case(
    id="B3",
    title="nothing but bad events from one producer",
    inject=inject,
    heal=heal,
    afterwards=back_to_the_limit,
    system=System(workers=WORKERS, settings=SETTINGS),
    allowed_errors=(rf"the worker stops: .* {TOLD}",),
)
