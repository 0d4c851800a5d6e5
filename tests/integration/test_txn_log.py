"""The transaction log on a real Postgres: what it says of each submission, and that nothing stays PENDING."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import msgspec
import psycopg
import pytest

from sinks import submissions
from sinks.erase import Order, erase
from sinks.postgres import connect
from sinks.queries import event_query
from sinks.reports import CLICK, SEARCH
from sinks.submissions import UNWRITTEN, SubmissionWriter, forget, read_submission, say_done, say_failed, settle
from streams.clock import SYSTEM_CLOCK
from streams.settings import Settings
from streams.topics import DEAD_LETTERS, EVENTS
from tables.profiles import SpanKey, encode_kept
from tests.support.sinks_process import Changelogs, StartSinks, select, until
from tests.support.submissions import ROWS_TOPIC, Submitter, a_submission, log_of, rows_of, stored
from tests.unit.sinks.test_writers import ARecord

PENDING = ("PENDING", 1, None)
DONE = ("DONE", 1, None)


def dead_letter_headers(offset: int) -> list[tuple[str, bytes]]:
    """Return the headers of a dead letter of the worker."""
    texts = {"reason": "schema", "detail": "time: wrong", "topic": EVENTS.topic, "partition": "0", "stage": "count"}
    return [*((name, text.encode()) for name, text in texts.items()), ("offset", str(offset).encode())]


def test_nothing_stays_pending_after_a_kill_between_receive_and_sink(
    start_sinks: StartSinks, submitter: Submitter, changelogs: Changelogs, sinks_dsn: str
) -> None:
    """P12: PENDING as soon as Kafka has it, DONE with its rows, FAILED with the reason; the bound is 60 s."""
    raws = [a_submission(f"t{number}") for number in range(30)]
    sinks = start_sinks()
    base = submitter.submit(raws)
    until(lambda: log_of(sinks_dsn) == dict.fromkeys((f"t{number}" for number in range(30)), PENDING), "PENDING")
    submitter.count(raws[:10], base)
    sinks.kill()
    submitter.count(raws[10:29], base + 10)
    changelogs.send(DEAD_LETTERS, 0, [(b"MOBILE_BACKEND", raws[29])], headers=dead_letter_headers(base + 29))
    start_sinks()
    until(lambda: "PENDING" not in {state for state, *_ in log_of(sinks_dsn).values()}, "nothing is PENDING", timeout_s=60)
    states = log_of(sinks_dsn)
    assert states.pop("t29") == ("FAILED", 1, "schema: time: wrong")
    assert set(states.values()) == {DONE}
    assert len(stored(sinks_dsn)) == 29


def test_log_begins_when_kafka_took_the_first(
    start_sinks: StartSinks, submitter: Submitter, changelogs: Changelogs, sinks_dsn: str
) -> None:
    """P12: `created_at` is of the record, not of when somebody wrote the row."""
    at = datetime.now(UTC) - timedelta(hours=5)
    raw = a_submission("old")
    changelogs.send(EVENTS.topic, 0, [(b"k", raw)], timestamp_ms=int(at.timestamp() * 1000))
    submitter.count([raw], 0)
    start_sinks()
    until(lambda: changelogs.are_in(sinks_dsn), "applied")
    ((created_at, state),) = select(sinks_dsn, "SELECT created_at, state FROM tally.txn_log")
    assert abs(created_at - at) < timedelta(seconds=1)
    assert state == "DONE"


@pytest.fixture
def connection(sinks_dsn: str) -> Iterator[psycopg.Connection]:
    """A connection of the sinks."""
    with connect(sinks_dsn) as made:
        yield made


def read(connection: psycopg.Connection, *ids: str, base: int = 0) -> None:
    """Let the reader of the source see submissions of contiguous offsets."""
    writer = SubmissionWriter(EVENTS, SYSTEM_CLOCK)
    records = [
        ARecord(b"k", a_submission(id_), EVENTS.topic, offset=offset, timestamp=SYSTEM_CLOCK.now_ms())
        for offset, id_ in enumerate(ids, base)
    ]
    pending = [item for item in map(writer.accept, records) if item is not None]
    with connection.transaction(), connection.cursor() as cursor:
        writer.write(cursor, pending, isolate=False)


def done(connection: psycopg.Connection, id_: str, offset: int) -> None:
    """Let the writer of rows write a submission."""
    submission = read_submission(a_submission(id_), partition=0, offset=offset)
    assert submission is not None
    with connection.transaction(), connection.cursor() as cursor:
        say_done(cursor, [submission])


def failed(connection: psycopg.Connection, id_: str, offset: int, error: str) -> None:
    """Let the writer of dead letters write one."""
    submission = read_submission(a_submission(id_), partition=0, offset=offset)
    assert submission is not None
    with connection.transaction(), connection.cursor() as cursor:
        say_failed(cursor, [(submission, 0, error)])


def test_states_do_not_depend_on_who_comes_first(connection: psycopg.Connection, sinks_dsn: str) -> None:
    """P12: three topics are read, each at its own pace; DONE is never taken back, and reading twice counts no attempt twice."""
    done(connection, "rows first", 0)
    failed(connection, "letter first", 1, "schema: x")
    for _ in range(2):
        read(connection, "rows first", "letter first", "rows first", "sent back")
    assert log_of(sinks_dsn) == {
        "rows first": ("DONE", 2, None),
        "letter first": ("FAILED", 1, "schema: x"),
        "sent back": PENDING,
    }
    failed(connection, "rows first", 2, "schema: of a second attempt")
    failed(connection, "sent back", 3, "schema: y")
    read(connection, "sent back", base=4)
    assert log_of(sinks_dsn)["sent back"] == ("FAILED", 2, "schema: y")
    done(connection, "sent back", 4)
    assert log_of(sinks_dsn)["sent back"] == ("DONE", 2, None)
    assert log_of(sinks_dsn)["rows first"] == ("DONE", 2, None)
    failed(connection, "sent back", 3, "schema: y")
    assert log_of(sinks_dsn)["sent back"] == ("DONE", 2, None)


def test_a_failed_second_attempt_says_nothing_of_a_first_that_waits(connection: psycopg.Connection, sinks_dsn: str) -> None:
    """P12: in a window the first may wait for hours, while dead letters are written at once."""
    read(connection, "waits", "waits")
    failed(connection, "waits", 1, "schema: x")
    assert log_of(sinks_dsn)["waits"] == ("PENDING", 2, None)


def test_what_was_passed_over_ends_and_what_waits_does_not(
    connection: psycopg.Connection, sinks_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P12: rows that are gone from the changelog never come, however many; what lies behind the last written row still may."""
    gone = [f"gone{number}" for number in range(5)]
    read(connection, *gone, "written", "waits")
    done(connection, "written", 5)
    move_rows_through(connection, 5)
    assert settle(connection, EVENTS) == 6, "a dead letter may still come"
    monkeypatch.setattr(submissions, "GRACE_S", 0.0)
    monkeypatch.setattr(submissions, "STATEMENT_ROWS_MAX", 2)
    assert settle(connection, EVENTS) == 1
    assert log_of(sinks_dsn) == dict.fromkeys(gone, ("FAILED", 1, UNWRITTEN)) | {"written": DONE, "waits": PENDING}
    move_rows_through(connection, 4)
    assert select(sinks_dsn, "SELECT rows_through FROM tally.forward_positions") == [(5,)]


def move_rows_through(connection: psycopg.Connection, through: int) -> None:
    """Let the writer of rows say how far it is."""
    values = {"topic": ROWS_TOPIC, "partitions": [0], "throughs": [through]}
    connection.execute(event_query("move_rows_through"), values)


def test_what_becomes_done_while_it_is_ended_is_done(
    connection: psycopg.Connection, sinks_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P12: whoever ends it waits for who writes its rows, and then sees the state it has."""
    monkeypatch.setattr(submissions, "GRACE_S", 0.0)
    read(connection, "late")
    move_rows_through(connection, 0)
    with connect(sinks_dsn, name="ending") as other, ThreadPoolExecutor(1) as ending:
        with connection.transaction():
            done(connection, "late", 0)
            waiting = ending.submit(settle, other, EVENTS)
            waits = "SELECT FROM pg_stat_activity WHERE application_name = 'ending' AND wait_event_type = 'Lock'"
            until(lambda: bool(select(sinks_dsn, waits)), "it waits")
        assert waiting.result() == 0
    assert log_of(sinks_dsn) == {"late": DONE}


def test_log_is_forgotten_by_age_but_what_is_pending(
    connection: psycopg.Connection, sinks_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In pieces, so that no statement takes long."""
    monkeypatch.setattr(submissions, "STATEMENT_ROWS_MAX", 2)
    ids = [f"t{number}" for number in range(5)]
    read(connection, *ids, "waits")
    for offset, id_ in enumerate(ids):
        done(connection, id_, offset)
    forget(connection, kept_from_ms=SYSTEM_CLOCK.now_ms() - 60_000)
    assert len(log_of(sinks_dsn)) == 6
    forget(connection, kept_from_ms=SYSTEM_CLOCK.now_ms() + 60_000)
    assert log_of(sinks_dsn) == {"waits": PENDING}


def test_ids_and_users_of_any_length_are_found(connection: psycopg.Connection, sinks_dsn: str) -> None:
    """P15: 512 characters of four bytes each are more than an index takes; the log goes by a digest."""
    longest = "\U0001f4a9" * 512
    read(connection, longest)
    assert log_of(sinks_dsn) == {longest: PENDING}


def test_erased_user_leaves_rows_log_and_reports(
    start_sinks: StartSinks, submitter: Submitter, changelogs: Changelogs, sinks_dsn: str
) -> None:
    """What came later stays, and everybody else's; the files are written anew (tests/integration/test_erase.py looks)."""
    start_sinks()
    mine = [a_submission(f"mine{number}", [(CLICK, "p1")], user="gone") for number in range(4)]
    others = [a_submission(f"other{number}", [(CLICK, "p1")], user="here") for number in range(3)]
    submitter.carry([*mine[:3], *others, mine[3]])
    until(lambda: changelogs.are_in(sinks_dsn), "applied")
    settings = Settings.model_validate({"postgres": {"dsn": sinks_dsn}})
    order = Order(users=["gone"], topic=EVENTS.topic, before={0: 6})
    assert erase(msgspec.structs.replace(order, dry_run=True), settings).events == 4
    answer = erase(order, settings)
    assert answer.events == 3
    assert "txn_log" in answer.rewritten
    assert {id_ for *_, id_, _, _ in stored(sinks_dsn)} == set(log_of(sinks_dsn)) == {"mine3", "other0", "other1", "other2"}
    assert select(sinks_dsn, "SELECT post, clicks FROM tally.clicks_per_post") == [("p1", 4)]
    assert erase(order, settings).events == 0
    assert select(sinks_dsn, "SELECT post, clicks FROM tally.clicks_per_post") == [("p1", 4)]


def test_no_text_that_only_an_erased_user_has_sent_is_kept(
    start_sinks: StartSinks, submitter: Submitter, changelogs: Changelogs, sinks_dsn: str
) -> None:
    """A count of 0 would keep it, whether the sinks have deleted its rows, as when workers erase, or the command does."""
    start_sinks()
    searches = [("gone", "by the sinks"), ("gone", "by the command"), ("gone", "of both"), ("here", "of both")]
    raws = [a_submission(text + user, [(SEARCH, text)], user=user) for user, text in searches]
    submitter.carry(raws)
    until(lambda: changelogs.are_in(sinks_dsn), "applied")
    changelogs.send(ROWS_TOPIC, 0, [(SpanKey(0, 3).encode(), encode_kept(rows_of(raws[1:], base=1)))])
    until(lambda: changelogs.are_in(sinks_dsn), "applied")
    texts = "SELECT value, value_count FROM tally.value_counts ORDER BY 1"
    assert select(sinks_dsn, texts) == [("by the command", 1), ("by the sinks", 0), ("of both", 2)]
    settings = Settings.model_validate({"postgres": {"dsn": sinks_dsn}})
    answer = erase(Order(users=["gone"], topic=EVENTS.topic, before={0: 4}), settings)
    assert select(sinks_dsn, texts) == [("of both", 1)]
    assert "value_counts" in answer.rewritten


def test_rows_of_events_can_be_left_out_and_their_log_with_them(
    start_sinks: StartSinks, submitter: Submitter, changelogs: Changelogs, sinks_dsn: str
) -> None:
    """Without rows nothing could ever say DONE."""
    start_sinks(TALLY_SINKS_EVENTS="false")
    submitter.carry([a_submission()])
    changelogs.ends = {}
    changelogs.send(DEAD_LETTERS, 0, [(b"x", a_submission("bad"))], headers=dead_letter_headers(0))
    until(lambda: changelogs.are_in(sinks_dsn), "applied")
    assert (stored(sinks_dsn), log_of(sinks_dsn)) == ([], {})
