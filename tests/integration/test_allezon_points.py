"""Row A7: the points on which implementations of the Allezon contract differ, one test each, end to end by the gateway."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from kafka import KafkaConsumer, TopicPartition

from streams.topics import USER_TAGS
from tests.support.builders import a_record, a_user_tag, record_bytes
from tests.support.front_door import System, running_system
from tests.support.job import ALWAYS, minutes_from

VIEW = "action=VIEW&aggregates=COUNT"
BOTH = ("COUNT", "SUM_PRICE")
FORM = "application/x-www-form-urlencoded"


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """One worker and a gateway."""
    with running_system(tmp_path_factory.mktemp("points")) as running:
        yield running


def one_minute(minute: str) -> str:
    """Return the time range of the minute."""
    return minutes_from(minute, 1)


@pytest.mark.parametrize("product_id", [12486, "12486", -1, 2**63 - 1, "", "ż"])
def test_product_id_keeps_the_type_received(system: System, product_id: int | str) -> None:
    """Point 1: int on the wire and string in the contract are both taken and given back."""
    tag = a_user_tag(cookie=system.cookie(), product_id=product_id)
    system.door.send(tag)
    system.shows({"cookie": tag["cookie"], "views": [tag], "buys": []}, cookie=tag["cookie"])


def test_dropped_milliseconds_order_by_value_and_come_back_as_text(system: System) -> None:
    """Point 2: "…:01Z" is before "…:01.5Z" though it sorts behind it; the texts are echoed."""
    cookie = system.cookie()
    fractions = ["01Z", "01.0005Z", "01.001Z", "01.5Z", "01.500000001Z", "02.000Z"]
    tags = [a_user_tag(cookie=cookie, time=f"2022-03-01T00:00:{fraction}") for fraction in fractions]
    system.door.send(*reversed(tags))
    views = [tags[5], tags[3], tags[4], tags[2], tags[0], tags[1]]
    system.shows({"cookie": cookie, "views": views, "buys": []}, cookie=cookie)
    within = system.door.profile(cookie, "2022-03-01T00:00:01_2022-03-01T00:00:01.001").json["views"]
    assert within == [tags[0], tags[1]]


def test_same_millisecond_keeps_both_and_the_later_arrival_is_newer(system: System) -> None:
    """Points 3, 20: and equal content twice is two events (rule 8)."""
    minute, cookie = system.minute(), system.cookie()
    tags = [a_user_tag(cookie=cookie, origin=cookie, time=f"{minute}:00Z", price=price) for price in (1, 2, 2)]
    system.door.send(*tags)
    system.shows({"cookie": cookie, "views": tags[::-1], "buys": []}, cookie=cookie)
    system.counts([[f"{minute}:00", "VIEW", cookie, "3", "5"]], minute, 1, BOTH, {"action": "VIEW", "origin": cookie})


@pytest.mark.parametrize(("limit", "status"), [("0", 200), ("201", 200), ("1e2", 400), ("-1", 400), ("", 400), ("9" * 30, 200)])
def test_limit_out_of_range(system: System, limit: str, status: int) -> None:
    """Point 4, rule 4."""
    answer = system.door.ask("POST", f"/user_profiles/x?time_range={ALWAYS}&limit={limit}")
    assert answer.status == status
    assert status == 200 or answer.error == "bad_query"


def test_second_question_mark_is_an_ampersand(system: System) -> None:
    """Point 5: as the task's own text writes it."""
    cookie = system.cookie()
    tags = [a_user_tag(cookie=cookie, price=price) for price in range(2)]
    system.door.send(*tags)
    system.shows({"cookie": cookie, "views": tags[::-1], "buys": []}, cookie=cookie)
    answer = system.door.ask("POST", f"/user_profiles/{cookie}?time_range={ALWAYS}?limit=1")
    assert (answer.status, answer.json["views"]) == (200, [tags[1]])


@pytest.mark.parametrize(
    ("spelled", "columns"),
    [
        ("aggregates=count&aggregates=Sum_Price", ["count", "sum_price"]),
        ("aggregates[]=SUM_PRICE&aggregates[]=COUNT", ["sum_price", "count"]),
        ("aggregates=SUM_PRICE,COUNT", ["sum_price", "count"]),
        ("aggregates=COUNT&aggregates=COUNT", ["count", "count"]),
        ("category_id=c&origin=&brand_id=b&aggregates=COUNT", ["origin", "brand_id", "category_id", "count"]),
    ],
)
def test_columns_follow_the_contract_however_the_query_is_spelled(system: System, spelled: str, columns: list[str]) -> None:
    """Points 6, 7, 10: three spellings of aggregates, repeated columns, filters in the contract's order, also an empty one."""
    answer = system.door.ask("POST", f"/aggregates?{spelled}&action=BUY&time_range={one_minute(system.minute())}")
    assert (answer.status, answer.json["columns"]) == (200, ["1m_bucket", "action", *columns])
    assert len(answer.json["rows"][0]) == len(columns) + 2


@pytest.mark.parametrize(
    "query",
    [
        "time_range=2022-03-01T00:00:01_2022-03-01T00:01:00&action=VIEW&aggregates=COUNT",
        "time_range=2022-03-01T00:00:00_2022-03-01T00:11:00&action=VIEW&aggregates=COUNT",
        "time_range=2022-03-01T00:01:00_2022-03-01T00:00:00&action=VIEW&aggregates=COUNT",
        "time_range=2022-03-01T00:00:00_2022-03-01T00:01:00&action=VIEW",
        "time_range=2022-03-01T00:00:00_2022-03-01T00:01:00&action=VIEW&aggregates=AVG",
        "time_range=2022-03-01T00:00:00_2022-03-01T00:01:00&action=view&aggregates=COUNT",
        "time_range=2022-03-01T00:00:00_2022-03-01T00:01:00&aggregates=COUNT",
        "time_range=2022-03-01T00:00:00&action=VIEW&aggregates=COUNT",
        "time_range=2022-03-01T00:00:00Z_2022-03-01T00:01:00Z&action=VIEW&aggregates=COUNT",
        "action=VIEW&aggregates=COUNT",
        "",
    ],
)
def test_query_that_breaks_the_contract_is_400_with_the_reason(system: System, query: str) -> None:
    """Points 9, 15, 16: misaligned, over ten minutes, reversed, aggregates or action missing or wrong, malformed range."""
    answer = system.door.ask("POST", f"/aggregates?{query}")
    assert (answer.status, answer.error) == (400, "bad_query")


def test_reversed_range_of_a_profile_is_400_and_an_empty_one_empty(system: System) -> None:
    """Point 9, rule 2: from equal to to is an empty answer."""
    later, earlier = "2022-03-01T00:00:01", "2022-03-01T00:00:00.999"
    assert system.door.profile("x", f"{later}_{earlier}").status == 400
    assert system.door.profile("x", f"{later}_{later}").json == {"cookie": "x", "views": [], "buys": []}


HOSTILE = (
    "",
    "_",
    "|",
    ":",
    "a_b",
    "a",
    "b",
    "null",
    "None",
    "VIEW",
    "%41",
    "A",
    "a b",
    "a+b",
    "é",
    "e\u0301",
    "\u2028",
    "😀",
    "'",
    '"',
)


def test_values_that_would_collide_in_joined_keys_stay_apart(system: System) -> None:
    """Points 10, 11, 25: every combination of awkward texts is a cell of its own, counted and filtered by itself."""
    minute = system.minute()
    combinations = [(HOSTILE[n], HOSTILE[-n], HOSTILE[(7 * n + 3) % len(HOSTILE)]) for n in range(len(HOSTILE))]
    combinations += [("a", "b_c", "d"), ("a_b", "c", "d"), ("a", "b", "c_d"), ("a|b", "c", "d"), ("a", "b|c", "d")]
    names = ("origin", "brand_id", "category_id")
    for price, values in enumerate(combinations, 1):
        system.door.send(a_user_tag(**dict(zip(names, values, strict=True)), time=f"{minute}:30Z", price=price))
    system.counts([[f"{minute}:00", "VIEW", str(len(combinations))]], minute, 1, ("COUNT",), {"action": "VIEW"})
    for price, values in enumerate(combinations, 1):
        rows = [[f"{minute}:00", "VIEW", *values, "1", str(price)]]
        filters = {"action": "VIEW", **dict(zip(names, values, strict=True))}
        assert system.door.aggregates(minute, 1, BOTH, filters).json["rows"] == rows


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    ("body", "content_type"),
    [(None, None), (b"", "application/json"), (b"x" * 60_000, "text/html"), (b"\xff\0", "application/json"), (b"a=1", FORM)],
)
def test_queries_are_answered_by_either_method_whatever_the_body(
    system: System, method: str, body: bytes | None, content_type: str | None
) -> None:
    """Points 13, 26, rule 9: the body has no meaning; GET is what browsers and curl send."""
    headers = {} if content_type is None else {"Content-Type": content_type}
    for target in (f"/user_profiles/x?time_range={ALWAYS}", f"/aggregates?time_range={one_minute('2001-01-01T00:00')}&{VIEW}"):
        answer = system.door.ask(method, target, body, headers)
        assert (answer.status, answer.headers["content-type"]) == (200, "application/json")


def test_late_event_lands_where_its_time_says(system: System) -> None:
    """Points 14, 21, rule 3: late by days it is older than all 200, and in no profile; its own minute counts it."""
    minute, cookie = system.minute(), system.cookie()
    system.door.send(*(a_user_tag(cookie=cookie, time="2022-04-01T00:00:00Z", price=price) for price in range(200)))
    late = a_user_tag(cookie=cookie, origin=cookie, time=f"{minute}:00Z")
    system.door.send(late)
    system.counts([[f"{minute}:00", "VIEW", cookie, "1"]], minute, 1, ("COUNT",), {"action": "VIEW", "origin": cookie})
    answer = system.door.profile(cookie).json["views"]
    assert [tag["product_info"]["price"] for tag in answer] == list(range(199, -1, -1))
    assert system.door.profile(cookie, one_minute(minute)).json["views"] == []


def test_every_int32_is_a_price_and_sums_are_64_bit(system: System) -> None:
    """Points 17, 18."""
    minute, origin = system.minute(), system.cookie()
    largest, least = 2**31 - 1, -(2**31)
    for second, prices in enumerate(([largest] * 5, [least] * 5, [0, -1])):
        for price in prices:
            system.door.send(a_user_tag(origin=origin, price=price, time=f"{minute[:-1]}{second}:59.999Z"))
    sums = [5 * largest, 5 * least, -1]
    rows = [[f"{minute[:-1]}{second}:00", "VIEW", origin, str(total)] for second, total in enumerate(sums)]
    system.counts(rows, f"{minute[:-1]}0", 3, ("SUM_PRICE",), {"action": "VIEW", "origin": origin})


def test_204_means_that_the_topic_has_the_event(system: System) -> None:
    """Point 19: once the answer is there, the record is; exactly one, as it came."""
    body = a_record(cookie=system.cookie())
    system.door.send(body)
    assert topic_values(system.servers).count(body) == 1


def topic_values(servers: str) -> list[bytes]:
    """Return the values of the whole topic, as it is now."""
    with closing(KafkaConsumer(bootstrap_servers=servers, enable_auto_commit=False)) as consumer:
        partitions = [
            TopicPartition(USER_TAGS.topic, number) for number in consumer.partitions_for_topic(USER_TAGS.topic) or ()
        ]
        ends = consumer.end_offsets(partitions)
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        values: list[bytes] = []
        while any(consumer.position(partition) < end for partition, end in ends.items()):
            values += [record.value for records in consumer.poll(timeout_ms=500).values() for record in records]
    return values


def test_unknown_fields_are_taken_and_not_returned(system: System) -> None:
    """Point 22."""
    cookie = system.cookie()
    tag = a_user_tag(cookie=cookie)
    extra: dict[str, Any] = {**tag, "session": {"a": [1]}, "product_info": {**tag["product_info"], "colour": "red"}}
    system.door.send(extra)
    system.shows({"cookie": cookie, "views": [tag], "buys": []}, cookie=cookie)


@pytest.mark.parametrize("name", ["cookie", "country", "origin", "brand_id", "category_id", "product_id"])
@pytest.mark.parametrize("text", ["a\0b", "\ud800"])
def test_text_that_utf8_or_postgres_cannot_hold_is_400(system: System, name: str, text: str) -> None:
    """Point 23."""
    body = json.dumps(a_user_tag(**{name: text})).encode()
    answer = system.door.ask("POST", "/user_tags", body)
    assert answer.status == 400
    assert answer.error == "text" or name == "product_id"  # which may be an integer as well: the schema's first complaint


def test_last_of_duplicate_keys_wins_and_a_price_is_an_integer(system: System) -> None:
    """Point 24: as JSON parsers do; 1e2 and 1.0 are not written as integers."""
    cookie = system.cookie()
    twice = b'"cookie":"first","cookie":"%s"' % cookie.encode()
    system.door.send(a_record(cookie="first", price=7).replace(b'"cookie":"first"', twice))
    system.shows({"cookie": cookie, "views": [a_user_tag(cookie=cookie, price=7)], "buys": []}, cookie=cookie)
    assert system.door.profile("first").json["views"] == []
    for price in (b"1e2", b"1.0", b"-0.0", b"1E0"):
        assert system.door.ask("POST", "/user_tags", a_record(price=777).replace(b"777", price)).error == "schema"


COOKIES = (
    *("", "zażółć gęślą jaźń", "日本語", "😀", "e\u0301", "\u2028", "\ufeff", "x" * 500, "ż" * 500, "😀" * 500),
    *("a/b", "/", "//", "a/../b", "..", ".", "...", "a/", "/a", "?", "a?b=c", "#", "a#b", ";", "\\"),
    *("%", "%2F", "%252F", "%zz", "+", "a+b", "a b", " ", "&", "="),
    *("{x}", "{", "}", "a{user}", "[", "'", '"', "|", "_", "null", "None"),
    *("__faust", "__faust\x01offset__", "misrouted", "\x01", "\x7f", "\n", "\r\n", "a\nb", "\n\n"),
)


@pytest.mark.parametrize("cookie", COOKIES, ids=lambda cookie: ascii(cookie[:12]))
def test_any_text_is_a_cookie(system: System, cookie: str) -> None:
    """Point 25: percent-decoded once, whatever a path usually makes of it."""
    tag = a_user_tag(cookie=cookie, action="BUY", origin="weird")
    system.door.send(record_bytes(tag))
    system.shows({"cookie": cookie, "views": [], "buys": [tag]}, cookie=cookie, method="GET")
    encoded = "".join(f"%{byte:02x}" for byte in cookie.encode())  # every byte, the dots too, in lower case
    assert system.door.ask("POST", f"/user_profiles/{encoded}?time_range={ALWAYS}").json["buys"] == [tag]


@pytest.mark.parametrize("encoded", ["%FF", "%C3", "a%80b", "%ED%A0%80"])
def test_cookie_that_is_no_utf8_is_answered_in_json(system: System, encoded: str) -> None:
    """Point 25's other side: such a cookie cannot have been stored, and guessing another one would be wrong."""
    answer = system.door.ask("POST", f"/user_profiles/{encoded}?time_range={ALWAYS}")
    assert answer.status in (200, 400, 404)
    assert answer.headers["content-type"] == "application/json"
    assert not answer.json.get("buys")
