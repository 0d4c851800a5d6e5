"""An event time is read to the millisecond whatever its spelling, and nothing else is taken for one."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streams import event_time
from streams.event_time import SECONDS_REMEMBERED_MAX, Fractions, Seconds, format_instant, format_minute, parse_instant
from tests.support.strategies import LAST_SECOND, TIMES, instant_text, randoms

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def independent_ms(text: str) -> int | None:
    """Return the milliseconds by the standard library alone, None where the text is no event time."""
    if not re.fullmatch(r"[0-9-]{10}T[0-9:]{8}(\.[0-9]{1,9})?Z", text):
        return None
    try:
        whole = datetime.strptime(text[:19], "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC)
    except ValueError:
        return None
    if whole.year < 1970 or f"{whole:%Y-%m-%dT%H:%M:%S}" != text[:19]:
        return None
    return (whole - EPOCH) // timedelta(milliseconds=1) + int(f"{text[20:-1]}000"[:3])


def read(text: str) -> int | None:
    try:
        return parse_instant(text)
    except ValueError:
        return None


@given(st.integers(0, LAST_SECOND), st.text("0123456789", max_size=9))
@example(LAST_SECOND, "999999999")
@example(0, "")
def test_fraction_of_any_length_is_cut_to_milliseconds(second: int, digits: str) -> None:
    """A7 points 1, 2: ".000" is dropped by real senders, and ".9999" must not round up into the next second."""
    assert parse_instant(instant_text(second, digits)) == second * 1000 + int(f"{digits}000"[:3])


@given(randoms)
def test_text_is_an_instant_exactly_where_the_standard_library_says_so(random: Random) -> None:
    """A1: an event with a time that another reader refuses would be counted here and missed there."""
    for _ in range(20):
        text = list(random.choice((*TIMES, instant_text(random.randrange(LAST_SECOND), "5"))) or "x")
        for _ in range(random.randint(0, 2)):
            text[random.randrange(len(text))] = random.choice("0123456789-:.TZ+ \n٣")
        assert read("".join(text)) == independent_ms("".join(text)), text


def test_odd_time_is_read_as_the_standard_library_reads_it() -> None:
    """A1, A7 point 1."""
    assert {text: read(text) for text in TIMES} == {text: independent_ms(text) for text in TIMES}


@given(st.integers(0, LAST_SECOND * 1000 + 999))
def test_format_inverts_parse(at_ms: int) -> None:
    """Rows leave out the text of a canonical time."""
    assert parse_instant(format_instant(at_ms)) == at_ms
    assert format_minute(at_ms // 60_000) == format_instant(at_ms // 60_000 * 60_000)[:19]


def test_memos_stay_small_whatever_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hostile producer may send a new second in every event; memory may not grow with it."""
    monkeypatch.setattr(event_time, "SECONDS_REMEMBERED_MAX", 100)
    assert SECONDS_REMEMBERED_MAX >= 100
    seconds, fractions = Seconds(), Fractions()
    for second in range(1000):
        assert seconds[format_instant(second * 1000)[:19]] == second * 1000
        assert fractions[f".{second:06d}Z"] == second // 1000
    assert len(seconds) <= 100
    assert not fractions


def test_refused_text_is_not_remembered() -> None:
    """Else a broken producer would fill the memo."""
    seconds, fractions = Seconds(), Fractions()
    for text in ("2022-02-30T00:00:00", "1969-12-31T23:59:59", "2022-02-28T00:00:60", "", "x"):
        with pytest.raises(ValueError, match=r"."):
            seconds[text]
        with pytest.raises(ValueError, match="form"):
            fractions[text]
    assert not seconds and not fractions
