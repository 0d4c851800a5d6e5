"""B5: odd event times, by HTTP and straight into Kafka: each lies in its own half-open minute, or is refused with a reason."""

from __future__ import annotations

import re
from collections.abc import Iterator

from streams.errors import Reason
from streams.event_time import format_minute
from tests.fault.by_hand import code_of, next_event, post_event, throw_dead, throw_event
from tests.fault.case import Case, Workload
from tests.fault.checks import EXACT
from tests.fault.evidence import Evidence
from tests.fault.stage import Stage

TIME, SCHEMA = Reason.TIME.value, Reason.SCHEMA.value

TIMES: dict[str, str] = {
    "1970-01-01T00:00:00Z": "1970-01-01T00:00",
    "1970-01-01T00:00:59.999Z": "1970-01-01T00:00",
    "1969-12-31T23:59:59.999Z": TIME,
    "0001-01-01T00:00:00Z": TIME,
    "2100-02-28T23:59:59.999999999Z": "2100-02-28T23:59",
    "2100-02-29T00:00:00Z": TIME,
    "9999-12-31T23:49:59.999Z": "9999-12-31T23:49",
    "10000-01-01T00:00:00Z": TIME,
    "2022-02-27T23:00:00Z": "2022-02-27T23:00",
    "2022-03-01T00:00:00": TIME,
    "2022-03-01T14:00:00+14:00": TIME,
    "2022-03-01T00:00:00+00:00": TIME,
    "2022-03-01T00:00:00z": TIME,
    "2022-03-01 00:00:00Z": TIME,
    "2022-03-01T00:00Z": TIME,
    "2022-03-01T24:00:00Z": TIME,
    "2016-12-31T23:59:60Z": TIME,
    "2016-12-31T23:59:59.999Z": "2016-12-31T23:59",
    "2017-01-01T00:00:00.000Z": "2017-01-01T00:00",
    "2022-03-01T00:03:59.999Z": "2022-03-01T00:03",
    "2022-03-01T00:04:00.000Z": "2022-03-01T00:04",
    "2022-03-01T00:04:00Z": "2022-03-01T00:04",
    "2022-03-01T00:03:59.9999999Z": "2022-03-01T00:03",
    "2022-03-01T00:03:59.999999999Z": "2022-03-01T00:03",
    "2022-03-01T00:03:59.9999999999Z": SCHEMA,  # longer than any time may be
    "2022-03-01T00:04:00.0000001Z": "2022-03-01T00:04",
    "2022-03-01T00:04:00.Z": TIME,
    "2022-03-01T00:04:00,5Z": TIME,
    "٢٠٢٢-03-01T00:04:00Z": TIME,
    "": TIME,
    "2022-03-01T00:04:00.000Z" + " " * 7: SCHEMA,
    "1646092800000": TIME,
}
"""By the text of a time the minute (`YYYY-MM-DDTHH:MM`) in which it counts, or the reason code of who cannot be counted.

The load's events lie in the ten minutes from 2022-03-01T00:00 on: 2022-02-27T23:00 is 25 h late.
"""
USUAL_MINUTE = re.compile(r"2022-03-01T00:0\d")
COOKIE = "odd-time-"


def cookie_of(number: int, way: str) -> str:
    """Return the user that has only the event with the time of this number in the table, sent that way."""
    return f"{COOKIE}{number}-{way}"


def inject(stage: Stage) -> None:
    stage.mark("odd times")
    numbered = list(enumerate(TIMES.items()))
    stage.chance.shuffle(numbered)
    for number, (time, expected) in numbered:
        is_countable = expected not in (TIME, SCHEMA)
        stage.ledger.elsewhere += 2 * (is_countable and not USUAL_MINUTE.fullmatch(expected))
        event, value = at_time(stage, time, cookie_of(number, "http"))
        answer = post_event(stage, number=event, value=value)
        wanted = (204, "") if is_countable else (400, expected)
        assert (answer.status, code_of(answer)) == wanted, f"{time!r}: {answer}, not {wanted}"
        event, value = at_time(stage, time, cookie_of(number, "kafka"))
        if is_countable:
            throw_event(stage, event, value, cookie=cookie_of(number, "kafka"))
        else:
            throw_dead(stage, [(b"k", value, expected)], partition=stage.chance.randrange(stage.system.partitions))


def at_time(stage: Stage, time: str, cookie: str) -> tuple[int, bytes]:
    """Return the number and the bytes of a new event of that user at that time."""
    number, (_, value) = next_event(stage)
    value = re.sub(rb'"time":"[^"]*"', b'"time":"%b"' % time.encode(), value)
    return number, re.sub(rb'"cookie":"[^"]*"', b'"cookie":"%b"' % cookie.encode(), value)


def each_is_in_its_minute(evidence: Evidence) -> Iterator[str]:
    """The minutes of this table, which was written by hand, are those of the rows in Postgres."""
    minutes = {row.cookie: format_minute(row.at_ms // 60_000)[:16] for row in evidence.stored_events}
    for number, (time, expected) in enumerate(TIMES.items()):
        for way in ("http", "kafka"):
            found = minutes.get(cookie_of(number, way))
            if found != (None if expected in (TIME, SCHEMA) else expected):
                yield f"{time!r} by {way} lies in {found} and should in {expected}"


CASE = Case(
    id="B5",
    title="odd event times",
    inject=inject,
    workload=Workload(events=3_000),
    checks=(*EXACT, each_is_in_its_minute),
)
