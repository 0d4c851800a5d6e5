"""The oracle of the generator of load: right answers pass, planted mistakes do not, and young events are left open."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from load import sent as sent_module
from load.events import START_MS, Mix, events
from load.oracle import AGGREGATES_FRESH_S, PROFILE_FRESH_S, Oracle
from load.queries import AggregatesQuery, ProfileQuery, draw_aggregates, draw_profile
from load.sent import SentTags
from streams.event_time import MINUTE_MS, format_instant
from tests.support.builders import record_bytes
from tests.support.oracle import Oracle as PlainOracle

FIRST = START_MS // MINUTE_MS
COOKIE = "c"
FEW_USERS = Mix(cookies=30, hot_cookies=2, hot_cookie_share=0.3)


def a_tag(at_ms: int = 0, *, action: str = "VIEW", price: int = 5, brand: str = "Nike") -> dict[str, Any]:
    """Return an event of the user, *at_ms* milliseconds after the start."""
    product = {"product_id": 12486, "brand_id": brand, "category_id": "Shoes", "price": price}
    time = format_instant(START_MS + at_ms)
    return {
        "time": time,
        "cookie": COOKIE,
        "country": "PL",
        "device": "PC",
        "action": action,
        "origin": "o",
        "product_info": product,
    }


def sent_tags(*tags: dict[str, Any], acknowledged_s: Sequence[float | None] = ()) -> Oracle:
    """Return the oracle of tags that were sent one a second; acknowledged at once, or as given, or never."""
    sent = SentTags(START_MS, 60_000.0)
    for number, tag in enumerate(tags):
        at_ms = START_MS + (0 if not tag["time"] else _after_start_ms(tag))
        sent.add(COOKIE.encode(), at_ms, record_bytes(tag), sent_s=float(number))
        at_s = acknowledged_s[number] if acknowledged_s else float(number)
        if at_s is not None:
            sent.acknowledge(number, at_s)
    return Oracle(sent)


def _after_start_ms(tag: dict[str, Any]) -> int:
    minute, second = tag["time"][14:16], tag["time"][17:23]
    return int(minute) * MINUTE_MS + round(float(second) * 1000)


def profile_of(views: Sequence[dict[str, Any]] = (), buys: Sequence[dict[str, Any]] = ()) -> bytes:
    return record_bytes({"cookie": COOKIE, "views": list(views), "buys": list(buys)})


def a_query(start_ms: int = 0, end_ms: int = 600_000, limit: int = 200) -> ProfileQuery:
    return ProfileQuery(COOKIE, START_MS + start_ms, START_MS + end_ms, limit)


OLD, NEW, BUY = a_tag(1_000), a_tag(2_000), a_tag(1_500, action="BUY")
LONG_AFTER_S = 1_000.0


def test_profile_of_everything_sent_is_right() -> None:
    """Newest first, by kind, texts and types as they were sent."""
    oracle = sent_tags(OLD, NEW, BUY)
    assert oracle.accepts_profile(a_query(), profile_of([NEW, OLD], [BUY]), asked_s=LONG_AFTER_S)
    assert oracle.accepts_profile(a_query(1_001), profile_of([NEW], [BUY]), asked_s=LONG_AFTER_S)
    assert oracle.accepts_profile(a_query(1_001, 2_000), profile_of([], [BUY]), asked_s=LONG_AFTER_S)
    assert oracle.accepts_profile(a_query(limit=1), profile_of([NEW], [BUY]), asked_s=LONG_AFTER_S)
    assert oracle.accepts_profile(a_query(limit=0), profile_of(), asked_s=LONG_AFTER_S)


@pytest.mark.parametrize(
    "body",
    [
        profile_of([NEW, OLD]),
        profile_of([NEW], [BUY]),
        profile_of([OLD], [BUY]),
        profile_of([], [BUY]),
        profile_of([OLD, NEW], [BUY]),
        profile_of([NEW, NEW, OLD], [BUY]),
        profile_of([NEW, OLD, a_tag(500)], [BUY]),
        profile_of([NEW, a_tag(1_000, price=6)], [BUY]),
        profile_of([NEW, OLD | {"time": OLD["time"].replace(".000Z", "Z")}], [BUY]),
        profile_of([NEW, OLD | {"product_info": OLD["product_info"] | {"product_id": "12486"}}], [BUY]),
        profile_of([NEW, OLD], [BUY]).replace(b'"c"', b'"d"', 1),
        b"",
        b"[]",
    ],
    ids=[
        "no buys",
        "oldest",
        "newest",
        "views",
        "order",
        "twice",
        "never sent",
        "price",
        "time",
        "type",
        "user",
        "empty",
        "list",
    ],
)
def test_planted_mistake_in_a_profile_is_found(body: bytes) -> None:
    """An oracle that accepts everything would print 20,000 for any system."""
    assert not sent_tags(OLD, NEW, BUY).accepts_profile(a_query(), body, asked_s=LONG_AFTER_S)


def test_event_may_be_missing_from_a_profile_for_ten_seconds_after_its_204() -> None:
    """The task's rule, and no more: one older than that must be there, one without a 204 may be."""
    oracle = sent_tags(OLD, NEW, BUY, acknowledged_s=(0.0, 5.0, None))
    for views, buys in (([NEW, OLD], []), ([OLD], []), ([NEW, OLD], [BUY]), ([OLD], [BUY])):
        assert oracle.accepts_profile(a_query(), profile_of(views, buys), asked_s=4.9 + PROFILE_FRESH_S)
    assert not oracle.accepts_profile(a_query(), profile_of([NEW]), asked_s=4.9 + PROFILE_FRESH_S)
    assert not oracle.accepts_profile(a_query(), profile_of([OLD]), asked_s=5.0 + PROFILE_FRESH_S)


def test_only_the_newest_200_of_a_kind_are_there_before_the_range_is_cut() -> None:
    """Rule 4: trim first, range second. 250 views: a range of the oldest 50 is empty, one that holds some is cut."""
    tags = [a_tag(1_000 * number) for number in range(250)]
    oracle, newest = sent_tags(*tags), tags[::-1]

    def accepts(query: ProfileQuery, views: Sequence[dict[str, Any]]) -> bool:
        return oracle.accepts_profile(query, profile_of(views), asked_s=LONG_AFTER_S)

    assert accepts(a_query(0, 50_000), [])
    assert not accepts(a_query(0, 50_000), newest[-1:])
    assert accepts(a_query(0, 60_000), newest[190:200])
    assert not accepts(a_query(0, 60_000), newest[190:201])
    assert not accepts(a_query(0, 60_000), newest[190:199])
    assert accepts(a_query(0, 300_000), newest[:200])
    assert not accepts(a_query(0, 300_000), newest[:199])
    assert accepts(a_query(0, 300_000, 150), newest[:150])
    assert not accepts(a_query(0, 300_000, 150), newest[:151])


def test_young_events_past_the_range_may_or_may_not_push_others_out() -> None:
    """200 old views in the range and 5 young ones after it: 195 to 200 of them are right, and only the newest of them."""
    tags = [a_tag(1_000 * number) for number in range(205)]
    oracle, newest = sent_tags(*tags, acknowledged_s=[0.0] * 200 + [50.0] * 5), tags[199::-1]
    query = a_query(0, 200_000)
    for count in range(194, 201):
        assert oracle.accepts_profile(query, profile_of(newest[:count]), asked_s=55.0) == (count >= 195)
    assert not oracle.accepts_profile(query, profile_of(newest[1:197]), asked_s=55.0)


def test_of_one_millisecond_the_later_arrival_is_first_where_that_is_known() -> None:
    """Rule 4's ties: two that were under way together may stand in either order, two that were not may not."""
    one, other = a_tag(7, price=1), a_tag(7, price=2)
    apart, together = sent_tags(one, other, acknowledged_s=(0.5, 1.5)), sent_tags(one, other, acknowledged_s=(1.5, 1.4))
    for oracle, is_either in ((apart, False), (together, True)):
        assert oracle.accepts_profile(a_query(), profile_of([other, one]), asked_s=LONG_AFTER_S)
        assert oracle.accepts_profile(a_query(), profile_of([one, other]), asked_s=LONG_AFTER_S) == is_either


def totals(*rows: tuple[int, int], query: AggregatesQuery) -> bytes:
    """Return the answer of counts and sums to a query without filters."""
    buckets = [f"2022-03-01T00:{number:02d}:00" for number in range(len(rows))]
    lines = [[bucket, "VIEW", str(count), str(total)] for bucket, (count, total) in zip(buckets, rows, strict=True)]
    return record_bytes({"columns": query.columns(), "rows": lines})


TWO_MINUTES = AggregatesQuery(FIRST, FIRST + 2, {"action": "VIEW"}, ("COUNT", "SUM_PRICE"))
MINUTES = (a_tag(0, price=1), a_tag(59_999, price=2), a_tag(60_000, price=4), a_tag(1, action="BUY"))


@pytest.mark.parametrize("rows", [[(2, 3), (1, 5)], [(1, 3), (1, 4)], [(3, 3), (1, 4)], [(2, 3), (0, 0)], [(1, 1), (2, 6)]])
def test_planted_mistake_in_aggregates_is_found(rows: list[tuple[int, int]]) -> None:
    """One event or one unit of price too many, too few, or in the minute beside."""
    oracle = sent_tags(*MINUTES)
    assert oracle.accepts_aggregates(TWO_MINUTES, totals((2, 3), (1, 4), query=TWO_MINUTES), asked_s=LONG_AFTER_S)
    assert not oracle.accepts_aggregates(TWO_MINUTES, totals(*rows, query=TWO_MINUTES), asked_s=LONG_AFTER_S)


def test_event_may_be_missing_from_the_aggregates_for_a_minute_after_its_204() -> None:
    """The task's rule: old ones are exact, young ones and ones without a 204 may be counted, others never."""
    oracle = sent_tags(*MINUTES, acknowledged_s=(0.0, 10.0, None, 0.0))
    early_s, late_s = 9.9 + AGGREGATES_FRESH_S, 10.0 + AGGREGATES_FRESH_S
    for rows, is_early_right, is_late_right in (
        ([(2, 3), (1, 4)], True, True),
        ([(2, 3), (0, 0)], True, True),
        ([(1, 1), (0, 0)], True, False),
        ([(0, 0), (0, 0)], False, False),
        ([(2, 3), (2, 4)], False, False),
    ):
        body = totals(*rows, query=TWO_MINUTES)
        assert oracle.accepts_aggregates(TWO_MINUTES, body, asked_s=early_s) == is_early_right
        assert oracle.accepts_aggregates(TWO_MINUTES, body, asked_s=late_s) == is_late_right


def plain_and_ours(seed: int, *, count: int, late_share: float) -> tuple[PlainOracle, Oracle]:
    """Return the tests' own oracle and the generator's, of the same events, all acknowledged."""
    plain, sent = PlainOracle(), SentTags(START_MS, 100.0)
    mix = Mix(**{**vars(FEW_USERS), "late_share": late_share})
    for number, event in enumerate(events(seed, count=count, step_ms=100.0, mix=mix)):
        plain.add(event.body, number)
        sent.acknowledge(sent.add(event.cookie, event.at_ms, event.body, sent_s=float(number)), float(number))
    return plain, Oracle(sent)


def _mutated(body: dict[str, Any], chance: random.Random) -> dict[str, Any] | None:
    """Return an answer with one thing changed; None where there is nothing to change."""
    changed = json.loads(json.dumps(body))
    if "rows" in changed:
        row = chance.choice(changed["rows"])
        row[-1] = str(int(row[-1]) + chance.choice((-1, 1)))
        return dict(changed)
    tags = changed["views"] or changed["buys"]
    if not tags:
        return None
    tags.pop(chance.randrange(len(tags)))
    return dict(changed)


@pytest.mark.parametrize(("seed", "late_share"), [(1, 0.0), (2, 0.0), (3, 0.2), (4, 0.2)])
def test_only_what_plain_recomputation_answers_is_right(seed: int, late_share: float) -> None:
    """Two oracles that share no code agree on the generator's own queries, over several minutes, late events too."""
    chance = random.Random(seed)
    plain, ours = plain_and_ours(seed, count=3_000, late_share=late_share)
    asked_s = 3_000 + 2 * AGGREGATES_FRESH_S
    users = sorted({cookie for cookie, _ in plain.users})
    for _ in range(50):
        drawn = draw_profile(chance.choice(users), START_MS + chance.randrange(300_000), chance)
        query = ProfileQuery(drawn.cookie, max(drawn.start_ms, START_MS), drawn.end_ms, drawn.limit)
        answer = plain.profile(query.cookie, query.start_ms, query.end_ms, query.limit)
        _agree(ours.accepts_profile, query, answer, asked_s, chance)
        totals_query = draw_aggregates(FIRST, FIRST + 5, chance)
        start = f"2022-03-01T00:{totals_query.first - FIRST:02d}"
        minutes = totals_query.end - totals_query.first
        rows = plain.aggregates(start, minutes, totals_query.aggregates, totals_query.filters)
        _agree(ours.accepts_aggregates, totals_query, rows, asked_s, chance)


def _agree(accepts: Callable[..., bool], query: Any, answer: dict[str, Any], asked_s: float, chance: random.Random) -> None:
    assert accepts(query, record_bytes(answer), asked_s=asked_s), (query, answer)
    wrong = _mutated(answer, chance)
    if wrong is not None:
        assert not accepts(query, record_bytes(wrong), asked_s=asked_s), (query, wrong)


def test_what_is_forgotten_is_not_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of a day would fill the memory: so many tags are kept, and it is said since when."""
    monkeypatch.setattr(sent_module, "CHUNK_TAGS", 10)
    monkeypatch.setattr(sent_module, "CHUNKS_MAX", 3)
    sent = SentTags(START_MS, 1.0)
    body = record_bytes(a_tag())
    assert sent.since_ms == START_MS
    for number in range(31):
        sent.add(COOKIE.encode(), START_MS + number, body, sent_s=0.0)
    assert sent.since_ms == START_MS + 10
    assert [tag.number for tag in sent.of_user(COOKIE.encode(), since_ms=START_MS)] == list(range(30, 9, -1))
    sent.acknowledge(9, 1.0)
    sent.acknowledge(10, 1.0)
    assert [tag.number for tag in sent.of_user(COOKIE.encode(), since_ms=START_MS) if tag.acknowledged_s == 1.0] == [10]
