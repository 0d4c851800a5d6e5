"""The contract of the Allezon specification, end to end: events in by the gateway, answers out by it."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import Iterator
from contextlib import closing
from itertools import product
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stack.ports import free_port
from stack.topics import topic_specs
from streams.clock import SYSTEM_CLOCK
from streams.event_time import format_instant, parse_instant
from streams.settings import load_settings
from streams.topics import USER_TAGS, changelog_of
from tests.support.builders import a_record, a_user_tag, record_bytes
from tests.support.eventually import eventually
from tests.support.front_door import System, running_system
from tests.support.gateway_process import running_gateway
from tests.support.job import ALWAYS, Answer, Door, minutes_from, send_all
from tests.support.oracle import oracle_of

log = logging.getLogger(__name__)

SEED = 7
ASKED = (("COUNT",), ("SUM_PRICE",), ("COUNT", "SUM_PRICE"), ("SUM_PRICE", "COUNT"))
AGGREGATES_WITHIN_S = 60.0


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """One worker and a gateway."""
    with running_system(tmp_path_factory.mktemp("allezon")) as running:
        yield running


def without(name: str) -> dict[str, Any]:
    tag = a_user_tag()
    (tag if name in tag else tag["product_info"]).pop(name)
    return tag


BAD_TAGS: dict[str, Any] = {
    **{f"no {name}": without(name) for name in (*a_user_tag(), *a_user_tag()["product_info"])},
    "wrong action": a_user_tag(action="view"),
    "wrong device": a_user_tag(device="FRIDGE"),
    "price 1.5": a_user_tag(price=1.5),
    "price as text": a_user_tag(price="5"),
    "price 2^31": a_user_tag(price=2**31),
    "time without Z": a_user_tag(time="2022-03-01T00:00:00.649"),
    "February 30": a_user_tag(time="2022-02-30T00:00:00.000Z"),
    "not JSON": b"cookie=1",
    "cut": a_record()[:-1],
    "empty": b"",
}


def test_valid_tag_is_204_and_bad_one_400_and_not_stored(system: System) -> None:
    """A1: an empty body of success; each bad field is a 400 with a reason, and leaves no trace in any answer."""
    minute, cookie = system.minute(), system.cookie()
    mine = {"cookie": cookie, "origin": cookie, "time": f"{minute}:00.649Z"}
    for name, bad in BAD_TAGS.items():
        if isinstance(bad, dict):
            kept = ("cookie", "origin", "time")
            bad |= {
                key: mine[key]
                for key in kept
                if key in bad and not (key == "time" and name in ("time without Z", "February 30"))
            }
        answer = system.door.ask("POST", "/user_tags", bad if isinstance(bad, bytes) else json.dumps(bad).encode())
        assert answer.status == 400, name
        assert answer.error in {"schema", "time", "not_json", "empty"}, name
    good = a_user_tag(**mine)
    system.door.send(good)
    system.shows({"cookie": cookie, "views": [good], "buys": []}, cookie=cookie)
    system.counts([[f"{minute}:00", "VIEW", cookie, "1"]], minute, 1, ("COUNT",), {"action": "VIEW", "origin": cookie})


def some_tags(minute: str, *, cookies: int, count: int, seed: int = SEED) -> list[dict[str, Any]]:
    """Return events of ten minutes in random order; many at a minute's very first and last millisecond."""
    chance = random.Random(seed)
    start_ms = parse_instant(f"{minute}:00Z")

    def one() -> dict[str, Any]:
        offset_ms = chance.choice(
            (chance.randrange(600_000), 60_000 * chance.randrange(10), 60_000 * chance.randrange(1, 11) - 1)
        )
        return a_user_tag(
            cookie=f"{minute}-{chance.randrange(cookies)}",
            time=format_instant(start_ms + offset_ms),
            action=chance.choice(("VIEW", "VIEW", "BUY")),
            origin=f"o{chance.randrange(4)}",
            brand_id=f"b{chance.randrange(3)}",
            category_id=f"c{chance.randrange(3)}",
            price=chance.choice((0, 1, 33_000, 2**31 - 1, -5)),
        )

    return [one() for _ in range(count)]


def send(system: System, tags: list[dict[str, Any]]) -> None:
    bodies = [record_bytes(tag) for tag in tags]
    assert asyncio.run(send_all(system.door.port, bodies)) == len(tags)


def test_profiles_of_200_cookies_equal_the_oracle(system: System) -> None:
    """A2: out-of-order arrival; ranges that begin and end on an event's own millisecond and beside it; limits 0 to 201."""
    minute = system.minute()
    send(system, some_tags(minute, cookies=200, count=4_000))
    oracle = oracle_of(system.servers, USER_TAGS.topic)
    cookies = sorted({cookie for cookie, _ in oracle.users if cookie.startswith(minute)})
    assert len(cookies) == 200
    for cookie in cookies:
        system.shows(oracle.profile(cookie, 0, 1 << 60), cookie=cookie)
    chance = random.Random(SEED)
    for cookie, limit in product(cookies, (0, 1, 199, 200, 201)):
        times = sorted(at for action in ("VIEW", "BUY") for at, _, _ in oracle.users[cookie, action])
        start, end = sorted(chance.choice(times) + chance.choice((-1, 0, 1)) for _ in range(2))
        time_range = f"{format_instant(start)[:-1]}_{format_instant(end)[:-1]}"
        assert system.door.profile(cookie, time_range, limit=limit).json == oracle.profile(cookie, start, end, min(limit, 200))


def test_profile_keeps_200_of_each_action_and_a_late_tag_still_counts(system: System) -> None:
    """A3, rule 3: 250 views and 250 buys give 200 and 200, the newest; one older than all is in the aggregates only."""
    minute, cookie = system.minute(), system.cookie()
    start_ms = parse_instant(f"{minute}:00Z")
    tags = [
        a_user_tag(cookie=cookie, origin=cookie, action=action, time=format_instant(start_ms + number), price=number)
        for action in ("VIEW", "BUY")
        for number in range(1, 251)
    ]
    random.Random(SEED).shuffle(tags)
    send(system, tags)
    system.door.send(a_user_tag(cookie=cookie, origin=cookie, time=f"{minute}:00Z", price=0))
    newest = list(range(250, 50, -1))

    def prices(answer: Any) -> list[list[int]]:
        return [[tag["product_info"]["price"] for tag in answer[name]] for name in ("views", "buys")]

    system.counts([[f"{minute}:00", "VIEW", cookie, "251"]], minute, 1, ("COUNT",), {"action": "VIEW", "origin": cookie})
    eventually(lambda: prices(system.door.profile(cookie).json) == [newest, newest], what="the newest 200 of both")
    assert prices(system.door.profile(cookie, limit=3).json) == [newest[:3], newest[:3]]
    first = f"{minute}:00.000_{minute}:00.052"
    assert prices(system.door.profile(cookie, first).json) == [[51], [51]]


def test_all_filter_combinations_equal_the_oracle(system: System) -> None:
    """A4: 8 combinations by 2 actions by 4 lists of aggregates, tags at :00.000 and :59.999 among them."""
    minute = system.minute()
    tags = some_tags(minute, cookies=50, count=4_000)
    assert {tag["time"][17:] for tag in tags} >= {"00.000Z", "59.999Z"}
    send(system, tags)
    oracle = oracle_of(system.servers, USER_TAGS.topic)
    for action, given_names, asked in product(("VIEW", "BUY"), product((False, True), repeat=3), ASKED):
        names = [name for name, is_given in zip(("origin", "brand_id", "category_id"), given_names, strict=True) if is_given]
        filters = {"action": action} | {name: f"{name[0]}1" for name in names}
        expected = oracle.aggregates(minute, 10, asked, filters)
        assert system.counts(expected["rows"], minute, 10, asked, filters).json == expected


def test_answers_are_those_of_the_specifications_examples(system: System) -> None:
    """A5, A7 point 8: exact JSON; the bytes of the text before the tags are the contract's own example."""
    for price, second in ((400, "05:00"), (600, "05:59.999"), (5, "07:00.000")):
        system.door.send(a_user_tag(action="BUY", brand_id="Nike", price=price, time=f"2021-03-01T00:{second}Z"))
    filters = {"brand_id": "Nike", "action": "BUY"}
    rows = [["1000", "2"], ["0", "0"], ["5", "1"]]
    rows = [[f"2021-03-01T00:0{5 + place}:00", "BUY", "Nike", *row] for place, row in enumerate(rows)]
    answer = system.counts(rows, "2021-03-01T00:05", 3, ("SUM_PRICE", "COUNT"), filters)
    assert answer.headers["content-type"] == "application/json"
    assert answer.body.decode() == (
        '{"columns":["1m_bucket","action","brand_id","sum_price","count"],"rows":['
        '["2021-03-01T00:05:00","BUY","Nike","1000","2"],'
        '["2021-03-01T00:06:00","BUY","Nike","0","0"],'
        '["2021-03-01T00:07:00","BUY","Nike","5","1"]]}'
    )


def test_captured_event_and_queries_are_answered_as_captured(system: System) -> None:
    """A5: the real event and the real queries of the specification, byte for byte but for the order of members."""
    event = (
        b'{"product_info":{"product_id":12486,"brand_id":"Ebros_Gift","category_id":"Trousers","price":28969},'
        b'"time":"2022-03-01T00:00:00.649Z","cookie":"9WkYGxkiXBfpMIjBGURC","country":"CL","device":"MOBILE",'
        b'"action":"VIEW","origin":"CAMPAIGN_321"}'
    )
    system.door.send(event)
    expected = {"cookie": "9WkYGxkiXBfpMIjBGURC", "views": [json.loads(event)], "buys": []}
    system.shows(expected, cookie="9WkYGxkiXBfpMIjBGURC", time_range="2022-03-01T00:00:00.649_2022-03-01T00:00:00.650")
    target = "/user_profiles/yJKX3u9HOTlcaDipwAmb?time_range=2022-03-01T00:00:01.610_2022-03-01T00:00:02.419&limit=200"
    assert system.door.ask("POST", target).body == b'{"cookie":"yJKX3u9HOTlcaDipwAmb","views":[],"buys":[]}'
    target = "/aggregates?time_range=2020-03-01T00:01:00_2020-03-01T00:02:00&action=VIEW&category_id=Shoes___Accessories"
    assert system.door.ask("POST", f"{target}&aggregates=COUNT&aggregates=SUM_PRICE").body == (
        b'{"columns":["1m_bucket","action","category_id","count","sum_price"],'
        b'"rows":[["2020-03-01T00:01:00","VIEW","Shoes___Accessories","0","0"]]}'
    )


def test_what_nobody_has_sent_is_zeros_and_empty_lists(system: System) -> None:
    """A6, A7 points 8, 12: as many rows as minutes, none for an empty range."""
    for minutes in (0, 1, 10):
        answer = system.door.aggregates("2001-09-09T01:40", minutes, ("COUNT", "SUM_PRICE"), {"action": "BUY"})
        assert answer.status == 200
        assert [row[1:] for row in answer.json["rows"]] == [["BUY", "0", "0"]] * minutes
    assert system.door.profile("nobody").json == {"cookie": "nobody", "views": [], "buys": []}


def test_tag_is_in_profile_and_aggregates_soon_after_its_204(system: System) -> None:
    """A12, rule 10: 10 s and 60 s are promised; the slowest of twenty is logged."""
    slowest = {"profile": 0.0, "aggregates": 0.0}
    minute = system.minute()
    for number in range(1, 21):
        cookie = system.cookie()
        tag = a_user_tag(cookie=cookie, origin=minute, time=f"{minute}:07.000Z")
        system.door.send(tag)
        sent_s = SYSTEM_CLOCK.monotonic_s()
        system.shows({"cookie": cookie, "views": [tag], "buys": []}, cookie=cookie)
        slowest["profile"] = max(slowest["profile"], SYSTEM_CLOCK.monotonic_s() - sent_s)
        rows = [[f"{minute}:00", "VIEW", minute, str(number)]]
        question = (minute, 1, ("COUNT",), {"action": "VIEW", "origin": minute})
        eventually(
            lambda rows=rows, question=question: system.door.aggregates(*question).json["rows"] == rows,  # type: ignore[misc]
            within_s=AGGREGATES_WITHIN_S,
        )
        slowest["aggregates"] = max(slowest["aggregates"], SYSTEM_CLOCK.monotonic_s() - sent_s)
    log.info("slowest of 20, seconds after the 204: %s", slowest)


def test_gateway_is_healthy_only_with_a_ready_worker(system: System) -> None:
    """A16: what a balancer asks; without a worker tags are still taken, and queries say 503 and when to try again."""
    assert system.door.ask("GET", "/health").status == 200
    nobody = f"http://127.0.0.1:{free_port()}"
    with running_gateway(system.servers, gateway_workers=nobody) as gateway, closing(Door(gateway.port)) as door:
        eventually(lambda: door.ask("GET", "/live").status == 200)
        eventually(lambda: door.ask("POST", "/user_tags", a_record(time="2020-01-01T00:00:00Z")).status == 204)
        for target in ("/health", f"/user_profiles/x?time_range={ALWAYS}", "/aggregates"):
            answer = door.ask("GET", target)
            assert answer.status == 503
            assert int(answer.headers["retry-after"]) >= 1


def test_expected_answer_in_the_body_is_compared_and_the_answer_is_ours(system: System) -> None:
    """A17, rule 9: debug mode counts mismatches; equal is equal whatever the order of members."""
    target = f"/user_profiles/nobody-{system.cookie()}?time_range={ALWAYS}"
    ours = system.door.ask("POST", target)
    before = system.door.metric("tally_gateway_debug_mismatches_total")
    right = json.dumps(dict(reversed(ours.json.items())), indent=1).encode()
    wrong = ours.body.replace(b'"views":[]', b'"views":[1]')
    for body, matches, mismatches in ((right, "true", 0), (wrong, "false", 1), (b"{}", None, 1), (b"[1", None, 1)):
        answer = system.door.ask("POST", target, body, {"Content-Type": "application/json"})
        assert (answer.status, answer.body) == (200, ours.body)
        assert answer.headers.get("x-tally-match") == matches
        assert system.door.metric("tally_gateway_debug_mismatches_total") == before + mismatches


def test_source_may_keep_less_than_the_tables_remember() -> None:
    """A19: the original's 5 minutes are a setting of the source alone; restoring is from the changelogs, which keep a day."""
    specs = {spec.name: spec.configs for spec in topic_specs(load_settings({"TALLY_TOPICS_RETENTION_S": "300"}))}
    assert specs[USER_TAGS.topic]["retention.ms"] == "300000"
    for table in USER_TAGS.tables:
        assert int(specs[changelog_of(table)]["retention.ms"]) >= 24 * 3600 * 1000


def test_one_cookie_and_one_origin_take_all_traffic_and_are_exact(system: System) -> None:
    """A20: hot keys are no special case."""
    minute, cookie = system.minute(), system.cookie()
    start_ms = parse_instant(f"{minute}:00Z")
    tags = [
        a_user_tag(cookie=cookie, origin="only", brand_id=cookie, time=format_instant(start_ms + 20 * number), price=number)
        for number in range(3_000)
    ]
    send(system, tags)
    rows = [[f"{minute}:00", "VIEW", "only", cookie, "3000", str(sum(range(3_000)))]]
    filters = {"action": "VIEW", "origin": "only", "brand_id": cookie}
    system.counts(rows, minute, 1, ("COUNT", "SUM_PRICE"), filters)
    system.shows({"cookie": cookie, "views": tags[:-201:-1], "buys": []}, cookie=cookie)


FIELD = st.sampled_from(
    ("time_range", "limit", "action", "aggregates", "aggregates[]", "origin", "brand_id", "category_id", "x")
)
VALUE = st.one_of(
    st.sampled_from(
        ("VIEW", "BUY", "COUNT", "SUM_PRICE", "0", "-1", "200", "9" * 40, ALWAYS, "", "%", "%zz", "\ud800", "a\0b")
    ),
    st.integers(-3, 13).map(lambda minutes: minutes_from("2022-03-01T00:10", minutes)),
    st.sampled_from(("0001-01-01T00:00:00_0001-01-01T00:01:00", "1969-12-31T23:59:00_1970-01-01T00:01:00")),
    st.sampled_from(("9999-12-31T23:50:00_9999-12-31T23:59:00", "0000-00-00T00:00:00_0000-00-00T00:00:00")),
    st.text(max_size=20),
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    st.lists(st.tuples(FIELD, VALUE), max_size=7),
    st.sampled_from(("/aggregates", "/user_profiles/x", None)),
    st.text(max_size=12),
    st.booleans(),
)
def test_any_query_is_answered_200_or_400_in_json(
    system: System, fields: list[tuple[str, str]], path: str | None, cookie: str, raw: bool
) -> None:
    """Rule 7, A7 point 16: never a 500, never a trace, whatever the query string holds."""
    safe = "[]:%,_?+" if raw else ""
    query = "&".join(f"{name}={quote(value, safe=safe, errors='surrogatepass')}" for name, value in fields)
    answer: Answer = system.door.ask("POST", f"{path or '/user_profiles/x' + quote(cookie, safe='')}?{query}")
    assert answer.status in (200, 400), answer
    assert answer.headers["content-type"].startswith("application/json")
    assert set(answer.json) in ({"columns", "rows"}, {"cookie", "views", "buys"}, {"error"})
