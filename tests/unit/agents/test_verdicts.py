"""A dead letter is sent only when it passes now and certainly was not counted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from agents.replay import Choice, instant_ms, printable, shown
from agents.verdicts import Court, Verdict
from streams.codecs import Codec
from streams.dead_letters import DeadLetter, Position
from streams.topics import USER_TAGS, Stream
from tests.support.builders import a_record

TOPIC = USER_TAGS.topic
SOURCE = Position(TOPIC, 2, 17)
NOW_MS = 1_700_000_000_000
HORIZON_S = 3600.0


class StoppedClock:
    def now_ms(self) -> int:
        return NOW_MS

    def monotonic_s(self) -> float:
        return 0.0


def a_letter(**overrides: Any) -> DeadLetter:
    fields: dict[str, Any] = {
        "source": SOURCE, "reason": "schema", "detail": "", "stage": "count", "key": b"k", "value": a_record(), "headers": (),
        "at_ms": NOW_MS - 1000,
    }  # fmt: skip
    return DeadLetter(**(fields | overrides))


def a_court(*, offsets: tuple[int, ...] = (), complete: bool = True, committed: int = 4096, partition: int = 2) -> Court:
    """Return a court whose worker has counted *offsets* of the partition."""

    def ask(stream: Stream, user: str, time: str) -> Mapping[str, Any]:
        events = [{"partition": partition, "offset": offset} for offset in offsets]
        return {"events": events, "complete": complete, "partitions": [{"partition": partition}]}

    return Court({TOPIC: Codec(USER_TAGS)}, {TOPIC: {2: committed}}, ask, StoppedClock(), HORIZON_S)


def verdict(letter: DeadLetter, court: Court, marks: Mapping[Position, Position] | None = None) -> Verdict:
    return court.judge(letter, marks or {}).verdict


def test_what_decodes_and_was_not_counted_passes() -> None:
    """Its bucket is committed, so no worker reads it again; no row of it is stored; rows so young would be."""
    assert verdict(a_letter(), a_court()) is Verdict.PASSES
    assert verdict(a_letter(), a_court(offsets=(16, 18))) is Verdict.PASSES


def test_what_was_sent_before_is_not_sent_again() -> None:
    """The mark alone decides, whatever else is known."""
    marks = {SOURCE: SOURCE._replace(offset=5000)}
    judgment = a_court().judge(a_letter(), marks)
    assert judgment == (Verdict.REPLAYED, "lies at user-tags.v1/2/5000")


@pytest.mark.parametrize("value", [None, b"", b"no JSON", a_record(price="1")])
def test_what_would_fail_again_is_not_sent(value: bytes | None) -> None:
    """It would only be a dead letter once more, under another offset."""
    judgment = a_court().judge(a_letter(value=value), {})
    assert judgment.verdict is Verdict.FAILS and judgment.why


def test_what_an_open_bucket_counts_by_itself_is_not_sent() -> None:
    """After a fix the workers read their open buckets again: such an event counts without a replay."""
    assert verdict(a_letter(), a_court(offsets=(17,))) is Verdict.COUNTED
    assert verdict(a_letter(), a_court(offsets=(17,), committed=0)) is Verdict.COUNTED
    assert verdict(a_letter(), a_court(committed=17)) is Verdict.OPEN_BUCKET
    assert verdict(a_letter(source=SOURCE._replace(partition=3)), a_court(partition=3)) is Verdict.OPEN_BUCKET  # no commit yet


@pytest.mark.parametrize(
    ("letter", "court"),
    [
        (a_letter(at_ms=NOW_MS - int(HORIZON_S * 1000)), a_court()),
        (a_letter(), a_court(complete=False)),
        (a_letter(), a_court(partition=1)),
    ],
)
def test_what_nobody_can_tell_any_more_is_not_sent_unasked(letter: DeadLetter, court: Court) -> None:
    """Rows that would show that it was counted may be gone: past the horizon, trimmed, or in a partition not asked."""
    assert verdict(letter, court) is Verdict.UNPROVEN


@pytest.mark.parametrize(
    "letter",
    [
        a_letter(stage="sinks", reason="refused_by_postgres"),
        a_letter(source=Position("tally-minute-blocks-changelog", 2, 17)),
        a_letter(source=Position("tally-minute-blocks-changelog", 2, 17), stage="sinks"),
    ],
)
def test_what_the_worker_has_counted_is_never_sent(letter: DeadLetter) -> None:
    """A row that Postgres refused is counted; a changelog record is no event."""
    judgment = a_court().judge(letter, {})
    assert judgment.verdict is Verdict.NOT_A_SOURCE_RECORD and "do not send it again" in judgment.why


def test_what_was_dropped_at_the_door_is_never_sent() -> None:
    """Decision 0025: its position is made up, and its producer sends it anew."""
    letter = a_letter(source=Position("/v1/events", 0, 17), stage="gateway", reason="schema.missing_field")
    judgment = a_court().judge(letter, {})
    assert judgment.verdict is Verdict.NOT_A_SOURCE_RECORD and "its producer" in judgment.why


def test_choice_takes_what_all_its_fields_name() -> None:
    """Reasons, position and the time of putting aside, [since, until)."""
    letter = a_letter()
    at_ms = letter.at_ms
    taking = [
        Choice(), Choice(reasons=frozenset({"schema", "time"})), Choice(topic=TOPIC, partition=2, offset=17),
        Choice(since_ms=at_ms, until_ms=at_ms + 1),
    ]  # fmt: skip
    leaving = [
        Choice(reasons=frozenset({"time"})), Choice(topic="other"), Choice(partition=0), Choice(offset=0),
        Choice(since_ms=at_ms + 1), Choice(until_ms=at_ms), Choice(partition=2, offset=18),
    ]  # fmt: skip
    assert all(choice.takes(letter) for choice in taking)
    assert not any(choice.takes(letter) for choice in leaving)


def test_a_payload_cannot_command_the_terminal() -> None:
    """A dead letter is what anybody wrote; it is shown to whoever operates."""
    assert printable(shown(b"\x1b[2Ja\nb\xff\xc5\xbc")) == "\\x1b[2Ja\\nb\\xffż"
    assert shown(None) == "(none)"


def test_an_instant_without_a_zone_is_utc() -> None:
    assert instant_ms("2026-03-01T12:00:00") == instant_ms("2026-03-01T13:00:00+01:00")
