"""The sinks on real Kafka and Postgres: whatever stops, starts again or arrives twice, the rows are the same."""

from __future__ import annotations

import signal
from contextlib import closing
from threading import Event

import psycopg
import pytest
from kafka import TopicPartition

from sinks.__main__ import connect
from stack.postgres import LocalPostgres
from streams.settings import Settings
from streams.topics import DEAD_LETTERS
from tables.blocks import BlockKey, Cells, encode_block, pack
from tests.support.sinks_process import (
    BLOCKS_TOPIC,
    MINUTE,
    ROWS_TOPIC,
    TRAFFICS,
    Changelogs,
    SinksProcess,
    StartSinks,
    Traffic,
    a_loop,
    expected_rows,
    merged,
    running,
    select,
    stored_rows,
    stored_totals,
    until,
)


def check(sinks_dsn: str, traffics: list[Traffic] = TRAFFICS) -> None:
    """Compare every cell and every row with the recomputation."""
    assert stored_totals(sinks_dsn) == merged(traffics)
    assert list(stored_rows(sinks_dsn)) == list(expected_rows(traffics))


def test_postgres_holds_every_cell_and_row_that_kafka_holds(
    start_sinks: StartSinks, changelogs: Changelogs, sinks_dsn: str
) -> None:
    """Partial versions, tombstones, progress and keep-alives lie between them, and texts that COPY must escape."""
    sinks = start_sinks()
    changelogs.send_all(TRAFFICS)
    until(lambda: changelogs.are_in(sinks_dsn), "applied")
    check(sinks_dsn)
    assert sinks.terminate() == 0


def test_second_delivery_of_everything_changes_nothing(start_sinks: StartSinks, changelogs: Changelogs, sinks_dsn: str) -> None:
    """Someone may set the offsets back, or restore them from a dump that is older than the rows."""
    changelogs.send_all(TRAFFICS)
    sinks = start_sinks()
    until(lambda: changelogs.are_in(sinks_dsn), "applied")
    sinks.terminate()
    with psycopg.connect(sinks_dsn) as connection:
        connection.execute("DELETE FROM tally.sink_offsets")
    start_sinks()
    until(lambda: changelogs.are_in(sinks_dsn), "applied again")
    check(sinks_dsn)


def test_every_record_sent_twice_in_another_order_changes_nothing(
    start_sinks: StartSinks, changelogs: Changelogs, sinks_dsn: str
) -> None:
    """A zombie worker sends again what another has sent: older versions come after newer ones, spans overlap."""
    start_sinks()
    changelogs.send_all(TRAFFICS)
    for traffic in TRAFFICS:
        changelogs.send(BLOCKS_TOPIC, traffic.partition, traffic.block_records(partial_every=700)[::-1])
        changelogs.send(ROWS_TOPIC, traffic.partition, traffic.row_records(span_rows=333)[::-1])
    until(lambda: changelogs.are_in(sinks_dsn), "applied")
    check(sinks_dsn)


def one_block(through: int, count: int) -> tuple[bytes, bytes]:
    """Return a version of the block of minute 0, bucket 0, that holds one cell."""
    cells: Cells = {("VIEW", "o", "b", "c"): pack(count, 10 * count)}
    return BlockKey(MINUTE, 0, through).encode(), encode_block(cells, sums=1)


def test_greatest_through_wins_in_any_order(start_sinks: StartSinks, changelogs: Changelogs, sinks_dsn: str) -> None:
    """The one rule of every reader, across transactions: newer replaces older, older is left out, a tombstone is nothing."""
    start_sinks()
    for versions, expected in (([(10, 3)], 3), ([(99, 7), (50, 5)], 7), ([(20, 4)], 7), ([(100, 8)], 8)):
        changelogs.send(BLOCKS_TOPIC, 1, [one_block(*version) for version in versions])
        changelogs.send(BLOCKS_TOPIC, 1, [(one_block(10, 3)[0], None)])
        until(lambda: changelogs.are_in(sinks_dsn), "applied")
        assert [(count, total) for count, total in stored_totals(sinks_dsn).values()] == [(expected, 10 * expected)]
    assert select(sinks_dsn, "SELECT count(*) FROM tally.minute_cells") == [(1,)]


def test_newer_version_replaces_rows_of_an_earlier_day(start_sinks: StartSinks, changelogs: Changelogs, sinks_dsn: str) -> None:
    """Cells lie under the day their record arrived on: around midnight the older version lies in another partition."""
    start_sinks()
    now_ms = select(sinks_dsn, "SELECT (extract(epoch FROM now()) * 1000)::bigint")[0][0]
    for through, count, timestamp_ms in ((10, 3, now_ms - 86_400_000), (11, 4, now_ms)):
        changelogs.send(BLOCKS_TOPIC, 0, [one_block(through, count)], timestamp_ms=timestamp_ms)
        until(lambda: changelogs.are_in(sinks_dsn), "applied")
    days = select(sinks_dsn, "SELECT (now() AT TIME ZONE 'UTC')::date - stored_on, event_count FROM tally.minute_cells")
    assert days == [(0, 4)]


def test_killed_in_midstream_the_next_start_goes_on_exactly(
    start_sinks: StartSinks, changelogs: Changelogs, sinks_dsn: str
) -> None:
    """kill -9 at any point: what was not committed is read again, what was is left out."""
    changelogs.send_all(TRAFFICS)
    done = [0]
    for _ in range(2):
        sinks = start_sinks(TALLY_SINKS_BATCH_ROWS_MAX="1000")
        until(lambda: progress(sinks_dsn) > done[-1], "progress")
        sinks.kill()
        done.append(progress(sinks_dsn))
        assert not changelogs.are_in(sinks_dsn), "it was not killed in midstream"
    start_sinks()
    until(lambda: changelogs.are_in(sinks_dsn), "applied")
    check(sinks_dsn)


def progress(sinks_dsn: str) -> int:
    """Return how many records have been applied."""
    return int(select(sinks_dsn, "SELECT coalesce(sum(next_offset), 0) FROM tally.sink_offsets")[0][0])


def test_postgres_that_fell_back_is_written_again(start_sinks: StartSinks, changelogs: Changelogs, sinks_dsn: str) -> None:
    """A failover to a copy that lacks the last transactions: going on from memory would leave a gap for good."""
    start_sinks()
    changelogs.send_all(TRAFFICS)
    until(lambda: changelogs.are_in(sinks_dsn), "applied")
    with psycopg.connect(sinks_dsn) as connection:
        connection.execute("TRUNCATE tally.minute_cells, tally.minute_cells_blocks, tally.user_events")
        connection.execute("UPDATE tally.sink_offsets SET next_offset = 0")
    changelogs.send(BLOCKS_TOPIC, 0, [(b"keep-alive", b"")])
    until(lambda: changelogs.are_in(sinks_dsn), "applied again")
    check(sinks_dsn)


def test_two_sinks_share_the_work_and_a_zombie_writes_nothing(
    start_sinks: StartSinks, changelogs: Changelogs, sinks_dsn: str
) -> None:
    """A process that was stopped past its session comes back with records that another has written meanwhile."""
    first = start_sinks(TALLY_SINKS_FLUSH_INTERVAL_S="3", TALLY_SINKS_BATCH_ROWS_MAX="1000000")
    until(lambda: first.get("/ready")[0] == 200, "ready")
    changelogs.send(BLOCKS_TOPIC, 0, TRAFFICS[0].block_records()[:20])
    until(lambda: lag_is_known(first), "it reads")
    first.send_signal(signal.SIGSTOP)  # With the records in memory or half written.
    start_sinks()
    changelogs.send_all(TRAFFICS)
    until(lambda: changelogs.are_in(sinks_dsn), "the second has taken over")
    first.send_signal(signal.SIGCONT)
    for traffic in TRAFFICS:
        changelogs.send(BLOCKS_TOPIC, traffic.partition, traffic.block_records()[-3:])
    until(lambda: changelogs.are_in(sinks_dsn), "both go on")
    check(sinks_dsn)


@pytest.mark.parametrize("sought", [False, True], ids=["on", "from where it was sought"])
def test_partition_that_was_paused_amid_its_records_is_read_on(
    sinks_servers: str, changelogs: Changelogs, sought: bool
) -> None:
    """kafka-python 3.0 would leave it out for ever, once others were read meanwhile: a window would let nothing through."""
    paused, other = TopicPartition(DEAD_LETTERS, 0), TopicPartition(DEAD_LETTERS, 1)
    changelogs.send(DEAD_LETTERS, 0, [(b"k", b"%d" % number) for number in range(3)])
    with closing(connect(Settings.model_validate({"kafka": {"servers": sinks_servers}}), Event())) as consumer:
        consumer.assign([paused, other])
        found: list[tuple[int, int]] = []

        def polled(max_records: int, wanted: list[tuple[int, int]]) -> bool:
            for records in consumer.poll(timeout_ms=250, max_records=max_records).values():
                found.extend((record.partition, record.offset) for record in records)
            return found == wanted

        until(lambda: polled(1, [(0, 0)]), "the first of three records")
        if sought:
            consumer.seek(paused, 1)
        consumer.pause(paused)
        changelogs.send(DEAD_LETTERS, 1, [(b"k", b"x")])
        until(lambda: polled(64, [(0, 0), (1, 0)]), "a record of another partition")
        consumer.resume(paused)
        until(lambda: polled(64, [(0, 0), (1, 0), (0, 1), (0, 2)]), "what was left of the first")


def test_forgotten_join_is_made_again(
    sinks_servers: str, sinks_dsn: str, changelogs: Changelogs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kafka-python 3.0 may forget a join whose poll timed out: no answer ever comes, so the group is joined anew."""
    monkeypatch.setattr("sinks.loop.JOIN_TIMEOUT_S", 0.1)
    with running(a_loop(sinks_servers, sinks_dsn)) as loop:
        changelogs.send_all(TRAFFICS[:1])
        until(lambda: changelogs.are_in(sinks_dsn), "applied")
        loop._rebalances.under_way.set()  # As if the partitions had been revoked, and nothing after that.
        changelogs.send_all(TRAFFICS[1:])
        until(lambda: changelogs.are_in(sinks_dsn), "applied after joining anew")
    check(sinks_dsn)


def lag_is_known(sinks: SinksProcess) -> bool:
    """Say whether it has partitions and looks at them."""
    return "tally_sink_lag_records{" in sinks.get("/metrics")[1]


def test_postgres_may_stop_in_midstream(
    start_sinks: StartSinks, changelogs: Changelogs, sinks_dsn: str, postgres: LocalPostgres
) -> None:
    """The sinks wait, say so on /ready, keep their place in the group, and go on where they were."""
    sinks = start_sinks(TALLY_SINKS_BATCH_ROWS_MAX="1000")
    changelogs.send(BLOCKS_TOPIC, 0, TRAFFICS[0].block_records())
    until(lambda: progress(sinks_dsn) > 0, "midstream")
    postgres.kill()
    try:
        changelogs.send_all(TRAFFICS)
        until(lambda: sinks.get("/ready")[0] == 503, "not ready")
        assert "postgres" in sinks.get("/ready")[1]
        assert sinks.get("/live")[0] == 200
    finally:
        postgres.start()
    until(lambda: changelogs.are_in(sinks_dsn), "applied")
    until(lambda: sinks.get("/ready")[0] == 200, "ready again")
    check(sinks_dsn)
    log = sinks.log.read_text()
    assert log.count("postgres does not take") == log.count("postgres is back") == 1


def test_sigterm_ends_the_sinks_within_seconds_while_postgres_is_down(
    start_sinks: StartSinks, changelogs: Changelogs, sinks_dsn: str, postgres: LocalPostgres
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


def test_health_answers_as_the_interface_says(start_sinks: StartSinks, changelogs: Changelogs, sinks_dsn: str) -> None:
    """Errors are JSON; an unknown path is 404, a wrong method 405; every metric of the sinks is there after a write."""
    sinks = start_sinks()
    changelogs.send_all(TRAFFICS)
    until(lambda: changelogs.are_in(sinks_dsn), "applied")
    until(lambda: sinks.get("/ready")[0] == 200 and lag_is_known(sinks), "ready")
    assert sinks.get("/nothing") == (404, '{"error": {"code": "not_found", "message": "no such path"}}')
    assert sinks.get("/metrics", "POST")[0] == 405
    text = sinks.get("/metrics")[1]
    written = sum(len(traffic.rows) for traffic in TRAFFICS)
    assert f'tally_sink_rows_total{{operation="written",table="user_events"}} {float(written)}' in text
    for name in ("superseded_total", "transaction_duration_seconds_sum", "transaction_records_sum", "last_success"):
        assert f"tally_sink_{name}" in text
