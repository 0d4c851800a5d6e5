"""The three reports on a real Postgres: exact, whatever comes late, twice or is taken back."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable

import msgspec

from sinks.reports import CLICK, SEARCH, VISIT
from streams.event_time import format_instant
from tables.profiles import SpanKey, encode_kept
from tests.support.sinks_process import Changelogs, StartSinks, select, until
from tests.support.submissions import ROWS_TOPIC, Submitter, a_submission, rows_of


def synthetic(events: int, seed: int = 18) -> list[bytes]:
    """Return submissions for the reports, over five days, some of them late, all of a seed."""
    random_ = random.Random(seed)
    raws = []
    for number in range(events):
        at_ms = 1_704_067_200_000 + random_.randrange(5 * 86_400_000)
        key, name, names = random_.choice([(CLICK, "post", 9), (VISIT, "club", 4), (SEARCH, "CIS", 12)])
        value = f"{name} {random_.randrange(names)}"
        raws.append(a_submission(f"s{number}", [(key, value), ("noise", value)], time=format_instant(at_ms)))
    return raws


def expected_reports(raws: Iterable[bytes]) -> tuple[Counter[str], Counter[tuple[str, str]], Counter[str]]:
    """Return clicks by post, visits by club and day, searches by text: a plain recomputation."""
    counts: tuple[Counter[str], Counter[tuple[str, str]], Counter[str]] = (Counter(), Counter(), Counter())
    for raw in raws:
        submission = msgspec.json.decode(raw)
        for datapoint in submission["data"]:
            key, value = datapoint["key"], datapoint["value"]
            counts[0][value] += key == CLICK
            counts[1][value, submission["time"][:10]] += key == VISIT
            counts[2][value] += key == SEARCH
    return +counts[0], +counts[1], +counts[2]


def check_reports(dsn: str, raws: Iterable[bytes]) -> None:
    """Compare the three reports with a recomputation, the order of the third too."""
    clicks, visits, searches = expected_reports(raws)
    assert dict(select(dsn, "SELECT post, clicks FROM tally.clicks_per_post")) == clicks
    found = select(dsn, "SELECT club, day::text, visits FROM tally.visits_per_club_day")
    assert {(club, day): count for club, day, count in found} == visits
    ordered = sorted(searches.items(), key=lambda pair: (-pair[1], pair[0]))
    top = select(dsn, "SELECT place, search, searches FROM tally.top_course_searches ORDER BY place")
    assert top == [(place, *pair) for place, pair in enumerate(ordered, 1)]


def test_reports_are_exact_over_1_000_events_late_ones_and_erased_ones_too(
    start_sinks: StartSinks, submitter: Submitter, changelogs: Changelogs, sinks_dsn: str
) -> None:
    """P18: clicks a post, visits a club and day, top searches with ties by name; what is taken out of a span is not counted."""
    raws = synthetic(1_000)
    start_sinks()
    for partition in (0, 1):
        for first in range(0, 500, 90):
            submitter.carry(raws[500 * partition :][first : min(first + 90, 500)], partition=partition)
    until(lambda: changelogs.are_in(sinks_dsn), "applied")
    check_reports(sinks_dsn, raws)
    searches = [count for _, count in expected_reports(raws)[2].most_common()]
    assert len(searches) > len(set(searches)), "no tie to order"
    late = [a_submission(f"late{number}", [(VISIT, "club 1")], time="2024-01-01T00:00:00Z") for number in range(3)]
    base = submitter.carry(late)
    until(lambda: changelogs.are_in(sinks_dsn), "applied")
    check_reports(sinks_dsn, [*raws, *late])
    key, value = SpanKey(base, base + 2).encode(), encode_kept(rows_of(late[:2], base=base))
    changelogs.send(ROWS_TOPIC, 0, [(key, value)])
    until(lambda: changelogs.are_in(sinks_dsn), "applied")
    check_reports(sinks_dsn, [*raws, *late[:2]])
