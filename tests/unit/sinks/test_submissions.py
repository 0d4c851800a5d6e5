"""What the transaction log reads of a record, and when rows may be written; pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sinks.__main__ import writers
from sinks.batch import Batch
from sinks.dead_letters import failed_among, read_letter
from sinks.forward import Forward, Window, read_window
from sinks.migrate import MIGRATIONS
from sinks.retention import Retention
from sinks.submissions import SubmissionWriter, read_submission
from sinks.writers import Place
from streams.errors import SettingsError
from streams.settings import Settings, Sinks
from streams.topics import DEAD_LETTERS, EVENTS, STREAMS, changelog_of
from tables.registry import keeps_rows
from tests.support.submissions import a_submission
from tests.unit.sinks.test_writers import TODAY_MS, ARecord, FixedClock

DAY_MS = 86_400_000


def test_submission_is_read_without_judging_the_rest() -> None:
    """P12: a transaction that the worker will refuse is in the log all the same, as FAILED."""
    raw = a_submission("t1", data=[("a", "1"), ("b", "2")], time="never")
    found = read_submission(raw, partition=1, offset=7)
    assert found == (1, 7, "t1", "judtin", "TRANSACTION", "MOBILE_BACKEND", 2)


@pytest.mark.parametrize(
    "value", [None, b"", b"{", b"\xff", b"[]", b"{}", a_submission("x\0"), a_submission("x" * 513), b'{"id": "\\ud800"}']
)
def test_record_without_an_id_that_could_be_asked_for_is_not_in_the_log(value: bytes | None) -> None:
    """It becomes a dead letter of the worker; a text that Postgres cannot hold must not stop the sinks."""
    assert read_submission(value, partition=0, offset=0) is None
    assert SubmissionWriter(EVENTS, FixedClock()).accept(ARecord(value=value, topic=EVENTS.topic)) is None


def test_identity_is_of_user_and_id_together() -> None:
    """An id is unique to its user only; no two pairs are one text."""
    pairs = [("a", "b"), ("b", "a"), ("a", "b2"), ("", "ab"), ("ab", "")]
    found = {read_submission(a_submission(id_, user=user), partition=0, offset=0) for user, id_ in pairs}
    assert len({submission.identity for submission in found if submission}) == len(pairs)


def test_dead_letters_of_other_topics_fail_no_submission() -> None:
    """A cell's dead letter has the changelog's position, whose number is nothing to the source."""
    headers = {"reason": b"schema", "detail": b"x", "partition": b"1", "offset": b"9"}
    letters = [
        read_letter(
            ARecord(b"", a_submission("t1"), DEAD_LETTERS, headers=[*headers.items(), ("topic", topic.encode())]), at_ms=5
        )
        for topic in (EVENTS.topic, "user-tags.v1")
    ]
    ((submission, at_ms, error),) = failed_among(letters, topic=EVENTS.topic)
    assert (submission.id, submission.partition, submission.offset, at_ms, error) == ("t1", 1, 9, 5, "schema: x")
    assert list(failed_among(letters, topic="")) == []


def test_window_began_last_today_or_yesterday() -> None:
    """P8: 07:00 UTC of each day, that minute included."""
    window = read_window("window(07:00)")
    assert window == Window(7, 0)
    seven_ms = 7 * 3_600_000
    for now_ms, began_ms in ((seven_ms, seven_ms), (seven_ms - 1, seven_ms - DAY_MS), (DAY_MS, seven_ms)):
        assert window.latest(now_ms + DAY_MS) == datetime.fromtimestamp((began_ms + DAY_MS) / 1000, UTC)


@pytest.mark.parametrize("policy", ["", "window", "window(7:00)", "window(24:00)", "window(07:60)", "Immediate"])
def test_policy_that_is_none_is_refused(policy: str) -> None:
    """P7: by the settings too, which say it in one line."""
    with pytest.raises(SettingsError):
        read_window(policy)
    with pytest.raises(ValueError, match="events_forward"):
        Sinks(events_forward=policy)


def test_without_a_window_nothing_is_held() -> None:
    """P7: the policy `immediate`."""
    forward = Forward(["t"], None, clock=FixedClock())
    assert not forward.is_due()
    assert forward.held([Place("t", 0)]) == []
    assert not forward.stops(Place("t", 0), 10**9)
    assert forward.due_end(Place("t", 0), 5) == 5


def test_in_a_window_everything_is_held_until_postgres_has_been_asked() -> None:
    """P7: a start must not write what a window did not let through; other topics go on."""
    forward = Forward(["t"], Window(7, 0), clock=FixedClock())
    assert forward.is_due()
    assert forward.stops(Place("t", 0), 0)
    assert not forward.stops(Place("other", 0), 0)
    assert forward.due_end(Place("t", 0), 5) == 0


def test_skipped_offsets_move_on_and_never_back() -> None:
    """A transaction's marker is no record: without this, we would lag behind it for ever."""
    batch = Batch(start={Place("t", 0): 5})
    batch.skip(Place("t", 0), 5)
    assert (batch.reached, batch.records) == ({}, 0)
    batch.skip(Place("t", 0), 7)
    batch.skip(Place("t", 0), 6)
    assert (batch.next_of(Place("t", 0)), batch.records) == (7, 1)


@pytest.mark.parametrize("profiles", [True, False])
def test_submissions_are_written_whether_profiles_are_kept_or_not(profiles: bool) -> None:
    """Their rows are kept in any case, as duplicates are told by them; so `worker.profiles` says nothing to the sinks."""
    settings = Settings.model_validate({"worker": {"profiles": profiles}})
    assert {stream.topic: keeps_rows(stream, settings) for stream in STREAMS}[EVENTS.topic]
    made = writers(Retention(STREAMS, settings.sinks, FixedClock()), settings, FixedClock())
    assert {EVENTS.topic, changelog_of(EVENTS.rows_table)} <= {writer.topic for writer in made}


def test_migrations_are_named_by_day_and_follow_each_other() -> None:
    """P21: `YYYY-MM-DD_slug.py`; the revision is the name, so that a database says which file it is at."""
    names = sorted(path.name for path in (MIGRATIONS / "versions").glob("*.py"))
    assert len(names) >= 3
    for name in names:
        assert re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])_[a-z0-9]+(_[a-z0-9]+)*\.py", name)
        text = (MIGRATIONS / "versions" / name).read_text(encoding="utf-8")
        revision = name.removesuffix(".py").replace("-", "_")
        assert f'revision = "{revision}"' in text


@given(st.integers(-1, 2**63 - 1))
def test_wild_timestamp_of_a_record_is_now(timestamp_ms: int) -> None:
    """P12: created_at is shown to people, and Postgres knows no year 292,278,994."""
    pending = SubmissionWriter(EVENTS, FixedClock()).accept(
        ARecord(value=a_submission(), topic=EVENTS.topic, timestamp=timestamp_ms)
    )
    assert pending is not None
    assert 0 <= pending.content[1] <= TODAY_MS
