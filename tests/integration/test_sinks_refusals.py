"""What the sinks cannot write, or must not: dead letters, rows left out, and stops that only a human can end."""

from __future__ import annotations

import random
from pathlib import Path

import psycopg
from kafka.admin import KafkaAdminClient
from kafka.structs import TopicPartition

from streams.topics import DEAD_LETTERS, USER_TAGS
from tables.blocks import BlockKey, Cells, encode_block, pack
from tables.profiles import Row, RowCodec, SpanKey, encode_kept
from tests.support.sinks_process import (
    BLOCKS_TOPIC,
    MINUTE,
    ROWS_TOPIC,
    TRAFFICS,
    Changelogs,
    SinksProcess,
    StartSinks,
    Traffic,
    applied,
    expected_rows,
    merged,
    select,
    stored_rows,
    stored_totals,
    until,
)


def test_row_that_postgres_refuses_becomes_a_dead_letter_and_the_others_are_written(
    start_sinks: StartSinks, changelogs: Changelogs, sinks_dsn: str
) -> None:
    """NUL cannot come through the schema, but one bad row must never stop the others, whoever wrote it."""
    sinks = start_sinks()
    codec, traffic = RowCodec(USER_TAGS), Traffic(1, 50)
    bad = traffic.rows[17]
    traffic.rows[17] = replace_kept(bad, "nul\0here")
    pairs = [part for row in traffic.rows for part in codec.encode(row)]
    changelogs.send(ROWS_TOPIC, 1, [(SpanKey(0, 49).encode(), encode_kept(pairs)), (SpanKey(0, 49).encode(), b"\xc1rubbish")])
    cells: Cells = {("VIEW", "o", "b", "c"): pack(1, 5), ("VIEW", "o", "b\0", "c"): pack(1, 6)}
    changelogs.send(BLOCKS_TOPIC, 0, [(BlockKey(MINUTE, 3, 9).encode(), encode_block(cells, sums=1))])
    until(lambda: len(select(sinks_dsn, "SELECT FROM tally.dead_letters")) == 3, "dead letters")
    del traffic.rows[17]
    assert list(stored_rows(sinks_dsn)) == list(expected_rows([traffic]))
    assert list(stored_totals(sinks_dsn).values()) == [(1, 5)]
    columns = "source_topic, source_partition, source_offset, reason, stage"
    assert select(sinks_dsn, f"SELECT {columns} FROM tally.dead_letters ORDER BY source_topic") == [
        (BLOCKS_TOPIC, 0, 0, "refused_by_postgres", "sinks"),
        (ROWS_TOPIC, 1, 1, "bug", "sinks"),
        (USER_TAGS.topic, 1, bad.offset, "refused_by_postgres", "sinks"),
    ]
    assert 'tally_sink_refused_total{table="user_events"} 1.0' in sinks.get("/metrics")[1]


def replace_kept(row: Row, origin: str) -> Row:
    """Return a row with another origin."""
    country, device, _, *rest = row.kept
    return row._replace(kept=(country, device, origin, *rest))


def test_dead_letters_are_kept_as_they_came(start_sinks: StartSinks, changelogs: Changelogs, sinks_dsn: str) -> None:
    """Null keys and values, headers of the record itself, NUL in the detail, the same one twice, and one without headers.

    One that names as its topic what cannot be one has its own place: its text may be longer than a primary key can be.
    """
    start_sinks()
    texts = {
        "reason": b"schema",
        "detail": b"a\0b\xff",
        "topic": b"user-tags.v1",
        "partition": b"1",
        "offset": b"42",
        "stage": b"worker",
    }
    headers = [("trace", b"\x00\xfe"), *texts.items()]
    changelogs.send(DEAD_LETTERS, 0, [(None, b""), (b"", None)], headers=headers)
    changelogs.send(DEAD_LETTERS, 1, [(b"\0key", b"\0\xff")])
    wild = texts | {"topic": random.Random(1).randbytes(4_000).hex().encode(), "detail": b"wild"}
    changelogs.send(DEAD_LETTERS, 1, [(None, b"x")], headers=list(wild.items()))
    until(lambda: changelogs.are_in(sinks_dsn), "applied")
    columns = "source_topic, source_partition, source_offset, reason, detail, stage, record_key, record_value, record_headers"
    assert select(sinks_dsn, f"SELECT {columns} FROM tally.dead_letters ORDER BY source_topic DESC, 3") == [
        ("user-tags.v1", 1, 42, "schema", "a\ufffdb\ufffd", "worker", None, b"", [["trace", "\ufffd\ufffd"]]),
        (DEAD_LETTERS, 1, 0, "bug", "", "", b"\0key", b"\0\xff", []),
        (DEAD_LETTERS, 1, 1, "schema", "wild", "worker", None, b"x", []),
    ]


def test_rows_of_events_can_be_left_out(start_sinks: StartSinks, changelogs: Changelogs, sinks_dsn: str) -> None:
    """They are personal data, and twice the size of the cells: a setting leaves them out."""
    start_sinks(TALLY_SINKS_USER_EVENTS="false")
    changelogs.send_all(TRAFFICS)
    changelogs.ends = {place: end for place, end in changelogs.ends.items() if place[0] == BLOCKS_TOPIC}
    until(lambda: changelogs.are_in(sinks_dsn), "applied")
    assert stored_totals(sinks_dsn) == merged(TRAFFICS)
    assert not list(stored_rows(sinks_dsn))


def test_offsets_past_the_topics_end_stop_the_sinks(start_sinks: StartSinks, sinks_dsn: str) -> None:
    """The database of another Kafka would mix two histories under one identity."""
    with psycopg.connect(sinks_dsn) as connection:
        connection.execute("INSERT INTO tally.sink_offsets VALUES (%s, 0, 1000, now())", (BLOCKS_TOPIC,))
    sinks = start_sinks()
    assert sinks.wait() == 1
    assert "belongs to another Kafka" in sinks.log.read_text()


def test_records_that_kafka_removed_unread_stop_the_sinks_until_somebody_accepts_it(
    start_sinks: StartSinks, changelogs: Changelogs, sinks_dsn: str, sinks_servers: str
) -> None:
    """Going on silently would leave Postgres too small for good; the partition that lost nothing is not read either."""
    sinks = start_sinks()
    changelogs.send(ROWS_TOPIC, 0, TRAFFICS[0].row_records()[:4])
    until(lambda: changelogs.are_in(sinks_dsn), "applied")
    sinks.terminate()
    before = len(list(stored_rows(sinks_dsn)))
    changelogs.send(ROWS_TOPIC, 0, TRAFFICS[0].row_records()[4:])
    read = applied(sinks_dsn)[ROWS_TOPIC, 0]
    admin = KafkaAdminClient(bootstrap_servers=sinks_servers)
    admin.delete_records({TopicPartition(ROWS_TOPIC, 0): read + 2})
    admin.close()

    sinks = start_sinks()
    assert sinks.wait() == 1
    assert f"nothing before offset {read + 2}, but only records before {read} are in postgres" in sinks.log.read_text()
    assert "TALLY_SINKS_ACCEPT_LOST_RECORDS=true" in sinks.log.read_text()
    assert len(list(stored_rows(sinks_dsn))) == before

    start_sinks(TALLY_SINKS_ACCEPT_LOST_RECORDS="true")
    until(lambda: changelogs.are_in(sinks_dsn), "applied")
    assert f"2 offsets of '{ROWS_TOPIC}' partition 0 were removed before they were read" in sinks.log.read_text()
    lost = 1_000  # Of the two records that are gone one is a span of rows, one a keep-alive.
    assert len(list(stored_rows(sinks_dsn))) == TRAFFICS[0].events - lost


def test_sinks_refuse_a_schema_that_is_not_theirs(sinks_servers: str, fresh_database: str, tmp_path: Path) -> None:
    """Writing into an older schema would fail row by row; `migrate` says what it did, and a second one does nothing."""
    sinks = SinksProcess(sinks_servers, fresh_database, tmp_path / "sinks.log")
    refused = sinks.once()
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert "python -m sinks migrate" in refused.stderr
    first, second = sinks.once("migrate"), sinks.once("migrate")
    assert (first.returncode, first.stdout.count("\n")) == (second.returncode, second.stdout.count("\n")) == (0, 1)
    assert "it was at none" in first.stdout
    assert "it was at" not in second.stdout
