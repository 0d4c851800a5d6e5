"""The sinks on real Kafka and Postgres: whatever stops, starts again or arrives twice, the rows are the same."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError

from sinks.migrate import migrate
from stack.kafka import LocalKafka
from stack.postgres import LocalPostgres
from streams.topics import DEAD_LETTERS, USER_TAGS
from tables.blocks import BlockKey, Cells, encode_block, pack
from tables.profiles import Row, RowCodec, SpanKey, encode_kept
from tests.support.sinks_process import (
    BLOCKS_TOPIC,
    ROWS_TOPIC,
    START_MS,
    Changelogs,
    SinksProcess,
    Traffic,
    a_loop,
    expected_rows,
    merged,
    select,
    stored_rows,
    stored_totals,
    until,
)

PARTITIONS = 2
TOPICS = (BLOCKS_TOPIC, ROWS_TOPIC, DEAD_LETTERS)
MINUTE = START_MS // 60_000
StartSinks = Callable[..., SinksProcess]


@pytest.fixture(scope="module")
def own_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKafka]:
    """A Kafka of this file: the names of the changelogs are fixed, and others' records would be written too."""
    service = LocalKafka(tmp_path_factory.mktemp("kafka"))
    service.start()
    yield service
    service.stop()
    service.remove()


@pytest.fixture
def servers(own_kafka: LocalKafka) -> str:
    """Bootstrap servers with empty topics."""
    admin = KafkaAdminClient(bootstrap_servers=own_kafka.servers)
    existing = [topic for topic in admin.list_topics() if topic in TOPICS]
    if existing:
        admin.delete_topics(existing)
    wanted = {topic: {"num_partitions": PARTITIONS, "replication_factor": 1, "configs": {}} for topic in TOPICS}

    def created() -> bool:
        try:
            admin.create_topics(wanted, wait_for_metadata=True)
        except KafkaError:
            return False  # Kafka is still deleting.
        return True

    until(created, "topics")
    admin.close()
    return own_kafka.servers


@pytest.fixture
def dsn(fresh_database: str) -> str:
    """A database with the schema."""
    migrate(fresh_database)
    return fresh_database


@pytest.fixture
def changelogs(servers: str) -> Iterator[Changelogs]:
    """Where a worker's records go."""
    made = Changelogs(servers)
    yield made
    made.close()


@pytest.fixture
def start_sinks(servers: str, dsn: str, tmp_path: Path) -> Iterator[StartSinks]:
    """Start `python -m sinks`; stopped at the end, and what it logged at ERROR fails the test unless it is expected."""
    started: list[SinksProcess] = []

    def start(**settings: str) -> SinksProcess:
        process = SinksProcess(servers, dsn, tmp_path / "sinks.log", **settings)
        started.append(process)
        return process.start()

    yield start
    for process in started:
        process.stop()
    lines = (tmp_path / "sinks.log").read_text().splitlines() if started else []
    assert [line for line in lines if " ERROR sinks." in line and "dead letters aside" not in line] == []


TRAFFICS = [Traffic(partition, 9_000, seed=7) for partition in range(PARTITIONS)]


def check(dsn: str, traffics: list[Traffic] = TRAFFICS) -> None:
    """Compare every cell and every row with the recomputation."""
    assert stored_totals(dsn) == merged(traffics)
    assert list(stored_rows(dsn)) == list(expected_rows(traffics))


def test_postgres_holds_every_cell_and_row_that_kafka_holds(start_sinks: StartSinks, changelogs: Changelogs, dsn: str) -> None:
    """Partial versions, tombstones, progress and keep-alives lie between them, and texts that COPY must escape."""
    sinks = start_sinks()
    changelogs.send_all(TRAFFICS)
    until(lambda: changelogs.are_in(dsn), "applied")
    check(dsn)
    assert sinks.terminate() == 0


def test_second_delivery_of_everything_changes_nothing(start_sinks: StartSinks, changelogs: Changelogs, dsn: str) -> None:
    """Someone may set the offsets back, or restore them from a dump that is older than the rows."""
    changelogs.send_all(TRAFFICS)
    sinks = start_sinks()
    until(lambda: changelogs.are_in(dsn), "applied")
    sinks.terminate()
    with psycopg.connect(dsn) as connection:
        connection.execute("DELETE FROM tally.sink_offsets")
    start_sinks()
    until(lambda: changelogs.are_in(dsn), "applied again")
    check(dsn)


def test_every_record_sent_twice_in_another_order_changes_nothing(
    start_sinks: StartSinks, changelogs: Changelogs, dsn: str
) -> None:
    """A zombie worker sends again what another has sent: older versions come after newer ones, spans overlap."""
    start_sinks()
    changelogs.send_all(TRAFFICS)
    for traffic in TRAFFICS:
        changelogs.send(BLOCKS_TOPIC, traffic.partition, traffic.block_records(partial_every=700)[::-1])
        changelogs.send(ROWS_TOPIC, traffic.partition, traffic.row_records(span_rows=333)[::-1])
    until(lambda: changelogs.are_in(dsn), "applied")
    check(dsn)


def one_block(through: int, count: int) -> tuple[bytes, bytes]:
    """Return a version of the block of minute 0, bucket 0, that holds one cell."""
    cells: Cells = {("VIEW", "o", "b", "c"): pack(count, 10 * count)}
    return BlockKey(MINUTE, 0, through).encode(), encode_block(cells, sums=1)


def test_greatest_through_wins_in_any_order(start_sinks: StartSinks, changelogs: Changelogs, dsn: str) -> None:
    """The one rule of every reader, across transactions: newer replaces older, older is left out, a tombstone is nothing."""
    start_sinks()
    for versions, expected in (([(10, 3)], 3), ([(99, 7), (50, 5)], 7), ([(20, 4)], 7), ([(100, 8)], 8)):
        changelogs.send(BLOCKS_TOPIC, 1, [one_block(*version) for version in versions])
        changelogs.send(BLOCKS_TOPIC, 1, [(one_block(10, 3)[0], None)])
        until(lambda: changelogs.are_in(dsn), "applied")
        assert [(count, total) for count, total in stored_totals(dsn).values()] == [(expected, 10 * expected)]
    assert select(dsn, "SELECT count(*) FROM tally.minute_cells") == [(1,)]


def test_newer_version_replaces_rows_of_an_earlier_day(start_sinks: StartSinks, changelogs: Changelogs, dsn: str) -> None:
    """Cells lie under the day their record arrived on: around midnight the older version lies in another partition."""
    start_sinks()
    now_ms = select(dsn, "SELECT (extract(epoch FROM now()) * 1000)::bigint")[0][0]
    for through, count, timestamp_ms in ((10, 3, now_ms - 86_400_000), (11, 4, now_ms)):
        changelogs.send(BLOCKS_TOPIC, 0, [one_block(through, count)], timestamp_ms=timestamp_ms)
        until(lambda: changelogs.are_in(dsn), "applied")
    days = select(dsn, "SELECT (now() AT TIME ZONE 'UTC')::date - stored_on, event_count FROM tally.minute_cells")
    assert days == [(0, 4)]


def test_killed_in_midstream_the_next_start_goes_on_exactly(start_sinks: StartSinks, changelogs: Changelogs, dsn: str) -> None:
    """kill -9 at any point: what was not committed is read again, what was is left out."""
    changelogs.send_all(TRAFFICS)
    done = [0]
    for _ in range(2):
        sinks = start_sinks(TALLY_SINKS_BATCH_ROWS_MAX="1000")
        until(lambda: progress(dsn) > done[-1], "progress")
        sinks.kill()
        done.append(progress(dsn))
        assert not changelogs.are_in(dsn), "it was not killed in midstream"
    start_sinks()
    until(lambda: changelogs.are_in(dsn), "applied")
    check(dsn)


def progress(dsn: str) -> int:
    """Return how many records have been applied."""
    return int(select(dsn, "SELECT coalesce(sum(next_offset), 0) FROM tally.sink_offsets")[0][0])


def test_postgres_that_fell_back_is_written_again(start_sinks: StartSinks, changelogs: Changelogs, dsn: str) -> None:
    """A failover to a copy that lacks the last transactions: going on from memory would leave a gap for good."""
    start_sinks()
    changelogs.send_all(TRAFFICS)
    until(lambda: changelogs.are_in(dsn), "applied")
    with psycopg.connect(dsn) as connection:
        connection.execute("TRUNCATE tally.minute_cells, tally.minute_cells_blocks, tally.user_events")
        connection.execute("UPDATE tally.sink_offsets SET next_offset = 0")
    changelogs.send(BLOCKS_TOPIC, 0, [(b"keep-alive", b"")])
    until(lambda: changelogs.are_in(dsn), "applied again")
    check(dsn)


def test_two_sinks_share_the_work_and_a_zombie_writes_nothing(
    start_sinks: StartSinks, changelogs: Changelogs, dsn: str
) -> None:
    """A process that was stopped past its session comes back with records that another has written meanwhile."""
    first = start_sinks(TALLY_SINKS_FLUSH_INTERVAL_S="3", TALLY_SINKS_BATCH_ROWS_MAX="1000000")
    until(lambda: first.get("/ready")[0] == 200, "ready")
    changelogs.send(BLOCKS_TOPIC, 0, TRAFFICS[0].block_records()[:20])
    until(lambda: lag_is_known(first), "it reads")
    first.send_signal(signal.SIGSTOP)  # With the records in memory or half written.
    start_sinks()
    changelogs.send_all(TRAFFICS)
    until(lambda: changelogs.are_in(dsn), "the second has taken over")
    first.send_signal(signal.SIGCONT)
    for traffic in TRAFFICS:
        changelogs.send(BLOCKS_TOPIC, traffic.partition, traffic.block_records()[-3:])
    until(lambda: changelogs.are_in(dsn), "both go on")
    check(dsn)


def test_forgotten_join_is_made_again(servers: str, dsn: str, changelogs: Changelogs, monkeypatch: pytest.MonkeyPatch) -> None:
    """kafka-python 3.0 may forget a join whose poll timed out: no answer ever comes, so the group is joined anew."""
    monkeypatch.setattr("sinks.loop.JOIN_TIMEOUT_S", 0.1)
    loop = a_loop(servers, dsn)
    thread = threading.Thread(target=loop.run)
    thread.start()
    try:
        changelogs.send_all(TRAFFICS[:1])
        until(lambda: changelogs.are_in(dsn), "applied")
        loop._rebalances.under_way.set()  # As if the partitions had been revoked, and nothing after that.
        changelogs.send_all(TRAFFICS[1:])
        until(lambda: changelogs.are_in(dsn), "applied after joining anew")
    finally:
        loop.stop.set()
        thread.join()
        loop.consumer.close(autocommit=False, timeout_ms=3_000)
        loop.postgres.close()
    check(dsn)


def lag_is_known(sinks: SinksProcess) -> bool:
    """Say whether it has partitions and looks at them."""
    return "tally_sink_lag_records{" in sinks.get("/metrics")[1]


def test_postgres_may_stop_in_midstream(
    start_sinks: StartSinks, changelogs: Changelogs, dsn: str, postgres: LocalPostgres
) -> None:
    """The sinks wait, say so on /ready, keep their place in the group, and go on where they were."""
    sinks = start_sinks(TALLY_SINKS_BATCH_ROWS_MAX="1000")
    changelogs.send(BLOCKS_TOPIC, 0, TRAFFICS[0].block_records())
    until(lambda: progress(dsn) > 0, "midstream")
    postgres.kill()
    try:
        changelogs.send_all(TRAFFICS)
        until(lambda: sinks.get("/ready")[0] == 503, "not ready")
        assert "postgres" in sinks.get("/ready")[1]
        assert sinks.get("/live")[0] == 200
    finally:
        postgres.start()
    until(lambda: changelogs.are_in(dsn), "applied")
    until(lambda: sinks.get("/ready")[0] == 200, "ready again")
    check(dsn)
    log = sinks.log.read_text()
    assert log.count("postgres does not take") == log.count("postgres is back") == 1


def test_sigterm_ends_the_sinks_within_seconds_while_postgres_is_down(
    start_sinks: StartSinks, changelogs: Changelogs, dsn: str, postgres: LocalPostgres
) -> None:
    """Waiting for as long as it takes must not mean waiting in `make run`'s way."""
    sinks = start_sinks()
    until(lambda: sinks.get("/ready")[0] == 200, "ready")
    postgres.kill()
    try:
        changelogs.send_all(TRAFFICS)
        until(lambda: sinks.get("/ready")[0] == 503, "not ready")
        sinks.send_signal(signal.SIGTERM)
        assert sinks.wait(10) == 0
    finally:
        postgres.start()


def test_row_that_postgres_refuses_becomes_a_dead_letter_and_the_others_are_written(
    start_sinks: StartSinks, changelogs: Changelogs, dsn: str
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
    until(lambda: len(select(dsn, "SELECT FROM tally.dead_letters")) == 3, "dead letters")
    del traffic.rows[17]
    assert list(stored_rows(dsn)) == list(expected_rows([traffic]))
    assert list(stored_totals(dsn).values()) == [(1, 5)]
    columns = "source_topic, source_partition, source_offset, reason, stage"
    assert select(dsn, f"SELECT {columns} FROM tally.dead_letters ORDER BY source_topic") == [
        (BLOCKS_TOPIC, 0, 0, "refused_by_postgres", "sinks"),
        (ROWS_TOPIC, 1, 1, "bug", "sinks"),
        (USER_TAGS.topic, 1, bad.offset, "refused_by_postgres", "sinks"),
    ]
    assert 'tally_sink_refused_total{table="user_events"} 1.0' in sinks.get("/metrics")[1]


def replace_kept(row: Row, origin: str) -> Row:
    """Return a row with another origin."""
    country, device, _, *rest = row.kept
    return row._replace(kept=(country, device, origin, *rest))


def test_dead_letters_are_kept_as_they_came(start_sinks: StartSinks, changelogs: Changelogs, dsn: str) -> None:
    """Null keys and values, headers of the record itself, NUL in the detail, the same one twice, and one without headers."""
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
    until(lambda: changelogs.are_in(dsn), "applied")
    columns = "source_topic, source_partition, source_offset, reason, detail, stage, record_key, record_value, record_headers"
    assert select(dsn, f"SELECT {columns} FROM tally.dead_letters ORDER BY source_topic DESC") == [
        ("user-tags.v1", 1, 42, "schema", "a\ufffdb\ufffd", "worker", None, b"", [["trace", "\ufffd\ufffd"]]),
        (DEAD_LETTERS, 1, 0, "bug", "", "", b"\0key", b"\0\xff", []),
    ]


def test_rows_of_events_can_be_left_out(start_sinks: StartSinks, changelogs: Changelogs, dsn: str) -> None:
    """They are personal data, and twice the size of the cells: a setting leaves them out."""
    start_sinks(TALLY_SINKS_USER_EVENTS="false")
    changelogs.send_all(TRAFFICS)
    changelogs.ends = {place: end for place, end in changelogs.ends.items() if place[0] == BLOCKS_TOPIC}
    until(lambda: changelogs.are_in(dsn), "applied")
    assert stored_totals(dsn) == merged(TRAFFICS)
    assert not list(stored_rows(dsn))


def test_offsets_past_the_topics_end_stop_the_sinks(start_sinks: StartSinks, dsn: str) -> None:
    """The database of another Kafka would mix two histories under one identity."""
    with psycopg.connect(dsn) as connection:
        connection.execute("INSERT INTO tally.sink_offsets VALUES (%s, 0, 1000, now())", (BLOCKS_TOPIC,))
    sinks = start_sinks()
    assert sinks.wait() == 1
    assert "belongs to another Kafka" in sinks.log.read_text()


def test_health_answers_as_the_interface_says(start_sinks: StartSinks, changelogs: Changelogs, dsn: str) -> None:
    """Errors are JSON; an unknown path is 404, a wrong method 405; every metric of the sinks is there after a write."""
    sinks = start_sinks()
    changelogs.send_all(TRAFFICS)
    until(lambda: changelogs.are_in(dsn), "applied")
    until(lambda: sinks.get("/ready")[0] == 200 and lag_is_known(sinks), "ready")
    assert sinks.get("/nothing") == (404, '{"error": {"code": "not_found", "message": "no such path"}}')
    assert sinks.get("/metrics", "POST")[0] == 405
    text = sinks.get("/metrics")[1]
    written = sum(len(traffic.rows) for traffic in TRAFFICS)
    assert f'tally_sink_rows_total{{operation="written",table="user_events"}} {float(written)}' in text
    for name in ("superseded_total", "transaction_duration_seconds_sum", "transaction_records_sum", "last_success"):
        assert f"tally_sink_{name}" in text


def test_sinks_refuse_a_schema_that_is_not_theirs(servers: str, fresh_database: str, tmp_path: Path) -> None:
    """Writing into an older schema would fail row by row; `migrate` says what it did, and a second one does nothing."""
    sinks = SinksProcess(servers, fresh_database, tmp_path / "sinks.log")
    refused = sinks.once()
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert "python -m sinks migrate" in refused.stderr
    first, second = sinks.once("migrate"), sinks.once("migrate")
    assert (first.returncode, first.stdout.count("\n")) == (second.returncode, second.stdout.count("\n")) == (0, 1)
    assert "it was at none" in first.stdout
    assert "it was at" not in second.stdout
