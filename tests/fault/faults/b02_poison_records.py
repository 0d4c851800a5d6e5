"""B2: records in the topic itself that nobody can count, of every kind: each is one dead letter, its partition moves on."""

from __future__ import annotations

from collections import Counter

import psycopg

from streams.topics import DEAD_LETTERS
from tests.fault.by_hand import throw_dead
from tests.fault.case import Case
from tests.fault.gather import DEAD_SQL, dead_letter_of
from tests.fault.stage import Stage
from tests.support.bad_records import BAD
from tests.support.oracle import read_topic

ROUNDS, ROUNDS_LONG = 2, 20


def inject(stage: Stage) -> None:
    for _ in range(ROUNDS_LONG if stage.is_long else ROUNDS):
        records = list(BAD.values())
        stage.chance.shuffle(records)
        partition = stage.chance.randrange(stage.system.partitions)
        stage.mark(f"{len(records)} records of nobody's kind into partition {partition}")
        throw_dead(stage, records, partition=partition)


def each_is_there_once(stage: Stage) -> None:
    """Nothing was read again here, so even the topic has each dead letter once."""
    in_topic = Counter(dead_letter_of(record.headers) for record in read_topic(stage.kafka.servers, DEAD_LETTERS))
    with psycopg.connect(stage.postgres.dsn) as connection:
        in_table = Counter(((partition, offset), reason) for partition, offset, reason in connection.execute(DEAD_SQL))
    twice = [letter for letters in (in_topic, in_table) for letter, times in letters.items() if times > 1]
    assert not twice, f"more than one dead letter of {twice[:5]}"


CASE = Case(id="B2", title="poison records in the topic", inject=inject, afterwards=each_is_there_once)
