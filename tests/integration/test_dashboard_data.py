"""What the dashboard page asks for is what plain recomputation says: from tables, from Postgres, and with one of them away."""

from __future__ import annotations

import csv
import http.client
import io
import json
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from streams.event_time import format_instant
from tests.support.builders import a_user_tag, record_bytes
from tests.support.dashboard_site import (
    API,
    DAY_S,
    DIMENSIONS,
    HOUR_S,
    MINUTE_S,
    NOW_S,
    PARTITIONS,
    QUIRKS,
    TAKEN_OVER_WITHIN_S,
    WITHIN_S,
    Site,
    running_site,
    shown,
    stream_of,
    text_of,
)
from tests.support.eventually import eventually
from tests.support.gateway_process import running_gateway
from tests.support.job import Door
from tests.support.sinks_process import select
from tests.support.worker import get


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """One job for all tests of the file, each of which leaves it whole."""
    with running_site() as made:
        yield made


QUESTIONS: list[tuple[dict[str, str], str | None]] = [
    ({}, None),
    ({}, "action"),
    ({"action": "BUY"}, "brand_id"),
    ({"brand_id": "Brand_1", "action": "VIEW"}, "category_id"),
    ({"origin": "ORIGIN_1"}, None),
]


@pytest.mark.parametrize(("filters", "by"), QUESTIONS)
@pytest.mark.parametrize("source", ["tables", "postgres"])
def test_minutes_are_those_of_the_oracle(site: Site, filters: dict[str, str], by: str | None, source: str) -> None:
    """Either source, any filters: every minute, silent ones as zero, and the answer says where it comes from and up to when."""
    start_s, end_s = (NOW_S - 4 * HOUR_S) // 60 * 60, NOW_S // 60 * 60
    fields = filters | ({"by": by} if by else {})

    def answered() -> Any:
        found = site.answer("series", from_=text_of(start_s), to=text_of(end_s), source=source, **fields)
        return found if found["as_of"] is not None else None

    answer = eventually(answered, within_s=WITHIN_S, what="an answer that knows up to when it reaches")
    assert shown(answer) == site.counted.series(start_s, end_s, MINUTE_S, filters, by)
    assert (answer["source"], answer["step_s"], answer["complete"], answer["missing_partitions"]) == (source, 60, True, [])
    assert len(answer["series"][0]["points"]) == 240
    assert answer["others"] is None
    assert text_of(time.time() - WITHIN_S) < answer["as_of"] <= text_of(time.time() + 1)


@pytest.mark.parametrize(("filters", "by"), QUESTIONS)
@pytest.mark.parametrize(("range_s", "step_s"), [(40 * HOUR_S, HOUR_S), (80 * DAY_S, DAY_S)])
def test_hours_and_days_are_those_of_the_oracle(
    site: Site, filters: dict[str, str], by: str | None, range_s: int, step_s: int
) -> None:
    """Partly rolled up already, partly not: what is asked does not tell."""
    start_s, end_s = NOW_S - range_s, NOW_S + HOUR_S
    fields = filters | ({"by": by} if by else {})
    first_s, last_s = start_s // step_s * step_s, -(-end_s // step_s) * step_s
    for _ in range(2):
        answer = site.answer("series", from_=text_of(start_s), to=text_of(end_s), **fields)
        assert (answer["source"], answer["step_s"], answer["from"]) == ("postgres", step_s, text_of(first_s))
        assert shown(answer) == site.counted.series(first_s, last_s, step_s, filters, by)
        eventually(site.whole, within_s=WITHIN_S, what="every hour that is over rolled up")


@pytest.mark.parametrize(("source", "range_s"), [("tables", 4 * HOUR_S), ("postgres", 4 * HOUR_S), ("postgres", 80 * DAY_S)])
@pytest.mark.parametrize("filters", [{}, {"action": "BUY"}, {"brand_id": "Brand_2"}])
def test_top_is_that_of_the_oracle(site: Site, source: str, range_s: int, filters: dict[str, str]) -> None:
    """The values that count most, ties by name, and what is left: shown and others are all of it."""
    step_s = MINUTE_S if range_s <= 6 * HOUR_S else DAY_S
    start_s, end_s = (NOW_S - range_s) // step_s * step_s, -(-NOW_S // step_s) * step_s
    asked = {"from_": text_of(start_s), "to": text_of(end_s), "source": source, **filters}
    answer = site.answer("top", dimension="origin", n=10, **asked)
    expected = site.counted.top(start_s, end_s, filters, "origin")
    assert [(row["key"], row["count"], row["sum_price"]) for row in answer["rows"]] == expected[:10]
    total = {"count": sum(row[1] for row in expected), "sum_price": sum(row[2] for row in expected)}
    assert answer["total"] == total
    assert answer["others"] == {name: total[name] - sum(row[name] for row in answer["rows"]) for name in total}
    assert answer["rows"][0]["share"] == pytest.approx(expected[0][1] / total["count"], abs=1e-6)


def test_many_values_have_a_line_each_up_to_twelve_and_one_for_the_others(site: Site) -> None:
    """A page cannot show a thousand lines; what it shows still adds up to everything."""
    asked = {"from_": text_of(NOW_S - 4 * HOUR_S), "to": text_of(NOW_S), "by": "origin"}
    for source in ("tables", "postgres"):
        answer = site.answer("series", source=source, **asked)
        lines = [[count for _, count, _ in line["points"]] for line in answer["series"]]
        lines.append([count for _, count, _ in answer["others"]])
        assert len(lines) == 13
        everything = site.answer("series", source=source, from_=asked["from_"], to=asked["to"])["series"][0]["points"]
        assert [sum(counts) for counts in zip(*lines, strict=True)] == [count for _, count, _ in everything]


def test_late_event_shows_at_once_and_after_it_is_rolled_up(site: Site) -> None:
    """An event of 30 hours ago comes now: its hour was whole, is added up from minutes meanwhile, and is whole again."""
    start_s, end_s = NOW_S - 40 * HOUR_S, NOW_S
    eventually(site.whole, within_s=WITHIN_S, what="every hour that is over rolled up")
    site.send([a_user_tag(time=format_instant((NOW_S - 30 * HOUR_S) * 1000), origin="LATE", price=11) for _ in range(3)])
    site.settle()
    for _ in range(2):
        for filters in ({"origin": "LATE"}, {}):
            answer = site.answer("series", from_=text_of(start_s), to=text_of(end_s), **filters)
            first_s, last_s = start_s // HOUR_S * HOUR_S, -(-end_s // HOUR_S) * HOUR_S
            assert shown(answer) == site.counted.series(first_s, last_s, HOUR_S, filters, None)
        eventually(site.whole, within_s=WITHIN_S, what="the hour rolled up again")


@pytest.mark.parametrize("value", [*QUIRKS, "nobody", "x" * 512, "\u202e", "a\tb\nc"])
def test_any_value_of_a_filter_is_answered_exactly(site: Site, value: str) -> None:
    """It is a parameter, whatever it holds: no statement is built from it."""
    for source, range_s in (("tables", 4 * HOUR_S), ("postgres", 4 * HOUR_S), ("postgres", 40 * HOUR_S)):
        step_s = MINUTE_S if range_s <= 6 * HOUR_S else HOUR_S
        start_s, end_s = (NOW_S - range_s) // step_s * step_s, -(-NOW_S // step_s) * step_s
        answer = site.answer("series", from_=text_of(start_s), to=text_of(end_s), source=source, origin=value)
        assert shown(answer) == site.counted.series(start_s, end_s, step_s, {"origin": value}, None)
    if value == QUIRKS[-1]:
        logged = site.postgres.log_file.read_text(errors="replace")
        assert not [line for line in logged.splitlines() if "ERROR" in line]


@pytest.mark.parametrize(
    "target",
    [
        "series?origin=a%00b",
        "series?origin=%ff",
        f"series?origin={'x' * 513}",
        "series?origin=a&origin=b",
        "series?by=cookie",
        "series?action=LOOK",
        "series?from=yesterday",
        "series?from=2026-03-01T00:00:00Z&to=2026-02-01T00:00:00Z",
        "series?from=1970-01-01T00:00:00Z",
        "series?source=mars",
        "series?source=tables&from=2020-01-01T00:00:00Z&to=2020-01-01T01:00:00Z",
        "series?format=xml",
        "series?drop=table",
        "series?from=2026-03-01T00:00:00Z&to=2026-03-20T00:00:00Z&origin=a&brand_id=b&by=category_id",
        "top",
        "top?dimension=price",
        "top?dimension=origin&n=-1",
        "top?dimension=origin&n=1001",
        "user",
        "dead-letters?reason=a%00",
        "where",
        "where?partition=4&offset=0",
        "where?cookie=a&time=now",
    ],
)
def test_what_cannot_be_answered_is_400_in_one_sentence(site: Site, target: str) -> None:
    """Also over the gateway, which passes everything on as it came, headers of the page included."""
    answer = site.door.ask("GET", f"{API}/{target}")
    assert (answer.status, answer.error) == (400, "bad_query")
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert answer.headers["cache-control"] == "no-store"


def test_csv_has_what_the_page_shows_and_no_formula(site: Site) -> None:
    """A file to be saved; a text that a spreadsheet would run is one that it shows."""
    asked = {"from_": text_of((NOW_S - 4 * HOUR_S) // 60 * 60), "to": text_of(NOW_S // 60 * 60)}
    found = site.ask("top", dimension="origin", n=1000, format="csv", **asked)
    assert (found.status, found.headers["content-type"]) == (200, "text/csv; charset=utf-8")
    assert found.headers["content-disposition"].startswith('attachment; filename="tally-top-origin-')
    heading, *rows = csv.reader(io.StringIO(found.body.decode()))
    assert heading == ["origin", "count", "sum_price", "share"]
    shown_rows = site.answer("top", dimension="origin", n=1000, **asked)["rows"]
    plain = [[row["key"], str(row["count"]), str(row["sum_price"])] for row in shown_rows]
    assert [row[:3] for row in rows] == [["'" + row[0] if row[0].startswith("=") else row[0], *row[1:]] for row in plain]
    assert "'=1+1" in [row[0] for row in rows]
    heading, *lines = csv.reader(io.StringIO(site.ask("series", by="action", format="csv", **asked).body.decode()))
    assert heading == ["at", "action", "count", "sum_price"] and len(lines) == 2 * 240
    assert sum(int(line[2]) for line in lines) == sum(row["count"] for row in shown_rows)


def test_users_events_are_those_of_the_profile(site: Site) -> None:
    """Newest first, as many as asked for, in JSON and as a table."""
    profile = site.door.profile("cookie-5", limit=7).json
    answer = site.answer("user", cookie="cookie-5", limit=7)
    assert answer == profile and answer["views"]
    heading, *rows = csv.reader(io.StringIO(site.ask("user", cookie="cookie-5", limit=7, format="csv").body.decode()))
    assert heading[:3] == ["time", "action", "country"]
    assert [row[0] for row in rows] == [event["time"] for event in (*answer["views"], *answer["buys"])]
    assert site.answer("user", cookie="nobody ; -- ' \u0001") == {"cookie": "nobody ; -- ' \u0001", "views": [], "buys": []}


def test_missing_event_is_told_in_one_word_a_sentence_and_steps(site: Site) -> None:
    """Counted, a dead letter, never received: by position and by user; and the dead letters' panel has it by reason."""
    at = format_instant((NOW_S - 5 * MINUTE_S) * 1000)
    site.send([a_user_tag(cookie="where-am-i", time=at)])
    bad = site.door.ask("POST", "/user_tags", record_bytes(a_user_tag(cookie="where-am-i", time=at)).replace(b"VIEW", b"LOOK"))
    assert bad.status == 400  # the door refuses it; who writes Kafka himself is not stopped there
    site.settle()
    found = site.answer("where", cookie="where-am-i", time=at)
    assert (found["verdict"], len(found["events"])) == ("counted", 1)
    assert [step["where"] for step in found["steps"]] == ["kafka", "worker", "postgres", "dead_letters"]
    assert [step["found"] for step in found["steps"]] == [True, True, True, False]
    _, partition, offset = found["events"][0]["source"].split("/")
    again = site.answer("where", partition=partition, offset=offset)
    assert (again["verdict"], again["source"]) == ("counted", found["events"][0]["source"])
    assert site.answer("where", partition=0, offset=10**9)["verdict"] == "not_received"
    nobody = site.answer("where", cookie="nobody", time=at)
    assert (nobody["verdict"], nobody["events"]) == ("not_received", [])
    assert "where-am-i" not in json.dumps(found)


def test_dead_letters_are_told_by_reason_without_what_they_hold(site: Site) -> None:
    """Groups and samples are those of the table; of the record itself nothing is shown."""
    partition, offset = site_dead_letter(site, b'{"secret": "payload"}')
    answer = eventually(lambda: with_sample(site, partition, offset), within_s=WITHIN_S, what="the dead letter")
    assert "payload" not in json.dumps(answer)
    groups = {(group["reason"], group["stage"]): group["count"] for group in answer["groups"]}
    rows = select(site.postgres.dsn, "SELECT reason, stage, count(*) FROM tally.dead_letters GROUP BY 1, 2")
    assert groups == {(reason, stage): count for reason, stage, count in rows}
    assert site.answer("dead-letters", reason="nothing")["groups"] == []
    heading, *table = csv.reader(io.StringIO(site.ask("dead-letters", format="csv", of="samples").body.decode()))
    assert heading == ["topic", "partition", "offset", "reason", "stage", "detail", "at"] and len(table) >= 1
    verdict = site.answer("where", partition=partition, offset=offset)
    assert verdict["verdict"] == "dead_letter" and verdict["steps"][3]["found"]


def test_dead_letter_of_a_submission_is_followed_in_its_own_topic(site: Site) -> None:
    """The same place of another topic is another event; what the gateway dropped lies in none."""
    partition, offset = site_dead_letter(site, b'{"secret": "payload"}', topic="events.v1")
    answer = eventually(lambda: with_sample(site, partition, offset, topic="events.v1"), within_s=WITHIN_S, what="the letter")
    assert "payload" not in json.dumps(answer)
    verdict = site.answer("where", topic="events.v1", partition=partition, offset=offset)
    assert (verdict["verdict"], verdict["source"]) == ("dead_letter", f"events.v1/{partition}/{offset}")
    refused = site.ask("where", topic="/v1/events", partition=partition, offset=offset)
    assert refused.status == 400 and "user-tags.v1, events.v1" in refused.json["error"]["message"]


def site_dead_letter(site: Site, value: bytes, *, topic: str = "user-tags.v1") -> tuple[int, int]:
    """Write a record that is no event straight into Kafka, and return where it lies."""
    from kafka import KafkaProducer

    with closing(KafkaProducer(bootstrap_servers=site.workers[0].environ["TALLY_KAFKA_SERVERS"])) as producer:
        sent = producer.send(topic, value=value, key=b"somebody", partition=1).get(timeout=20)
    return sent.partition, sent.offset


def with_sample(site: Site, partition: int, offset: int, *, topic: str = "user-tags.v1") -> Any:
    answer = site.answer("dead-letters")
    found = [(sample["topic"], sample["partition"], sample["offset"]) for sample in answer["samples"]]
    return answer if (topic, partition, offset) in found else None


def test_live_stream_tells_each_second_what_is_counted(site: Site) -> None:
    """Through the gateway: numbers of all workers together, and up to when."""
    with stream_of(site.gateway.port) as stream:
        events = stream.events()
        first, second = next(events), next(events)
        assert first["at"] < second["at"]
        assert (second["complete"], second["missing_partitions"]) == (True, [])
        assert [place["partition"] for place in second["partitions"]] == list(range(PARTITIONS))
        assert {worker["ready"] for worker in second["workers"]} == {True} and len(second["workers"]) == 2
        fresh = next(event for event in events if event["freshness_s"] is not None)
        assert fresh["freshness_s"] < 10 and fresh["lag_records"] == 0
        assert fresh["sinks"]["state"] == "ok" and fresh["sinks"]["lag_records"] is not None
        before = sum(place["position"] for place in fresh["partitions"])
        site.send([a_user_tag(cookie=f"live-{number}", time=format_instant(NOW_S * 1000)) for number in range(20)])
        after = next(event for event in events if sum(place["position"] for place in event["partitions"]) >= before + 20)
        assert after["events_per_s"] > 0
    site.settle()


def test_head_of_the_live_stream_is_answered_at_once(site: Site) -> None:
    """A monitor that asks so must not hold a stream open; the connection is good for the next request."""
    for port in (site.gateway.port, site.workers[0].port):
        with stream_of(port) as stream, closing(Door(port)) as door:
            for _ in range(2):
                answer = door.ask("HEAD", f"{API}/live")
                assert (answer.status, answer.body) == (200, b"")
                assert answer.headers["content-type"] == stream.response.getheader("Content-Type")
                assert answer.headers["cache-control"] == "no-store"
            assert door.ask("GET", f"{API}/dimensions").status == 200


def test_worker_that_is_killed_is_missing_and_its_streams_end(site: Site) -> None:
    """Never a wrong total shown as whole: what is missing is named until another worker has it; a new stream is another's."""
    victim, other = site.workers
    with stream_of(victim.port) as direct, stream_of(other.port) as watching:
        next(direct.events())
        events = watching.events()
        next(event for event in events if event["complete"])
        owned = site.kill(victim)
        assert 0 < len(owned) < PARTITIONS
        with pytest.raises((http.client.IncompleteRead, ConnectionError, StopIteration)):
            while True:
                next(direct.events())
        missed = next(event for event in events if not event["complete"])
        assert missed["missing_partitions"] == owned
        assert [worker["ready"] for worker in missed["workers"] if worker["url"] == victim.url] == [False]
        _, answer = get(f"{other.url}{API}/series")
        assert (answer["complete"], answer["missing_partitions"]) == (False, owned)
        with stream_of(site.gateway.port) as through:
            assert next(through.events())["at"]
    eventually(site.is_whole_again, within_s=TAKEN_OVER_WITHIN_S, what="the other worker with all partitions")
    victim.start()
    eventually(lambda: len(site.answer("now")["workers"]) == 2, within_s=TAKEN_OVER_WITHIN_S, what="both workers again")
    eventually(site.is_whole_again, within_s=TAKEN_OVER_WITHIN_S, what="all partitions")


def test_postgres_that_is_away_is_503_for_its_panels_only(site: Site) -> None:
    """Counting, the tables and the live stream know nothing of it; and it is asked again as soon as it is back."""
    old = {"from_": text_of(NOW_S - 40 * HOUR_S), "to": text_of(NOW_S)}
    site.postgres.stop()
    try:
        for path, fields in (("series", old), ("top", {"dimension": "origin", **old}), ("dead-letters", {})):
            started_s = time.monotonic()
            answer = site.ask(path, **fields)
            assert (answer.status, answer.error) == (503, "postgres_unavailable")
            assert answer.headers["retry-after"] and site.postgres.dsn not in answer.body.decode()
            assert time.monotonic() - started_s < 25
        site.send([a_user_tag(origin="DURING", time=format_instant((NOW_S - 60) * 1000))])
        recent = {"from_": text_of(NOW_S - HOUR_S), "to": text_of(NOW_S), "origin": "DURING"}
        eventually(lambda: shown(site.answer("series", **recent)).get(None), within_s=WITHIN_S, what="the event counted")
        assert site.answer("now")["complete"]
        assert site.answer("user", cookie="cookie-5")["views"]
    finally:
        site.postgres.start()
    eventually(lambda: site.ask("series", **old).status == 200, within_s=WITHIN_S, what="postgres asked again")
    site.settle()


def test_gateway_that_stops_ends_its_streams_at_once(site: Site) -> None:
    """A deployment must not wait for tabs that nobody closes."""
    urls = ",".join(worker.url for worker in site.workers)
    with running_gateway(site.workers[0].environ["TALLY_KAFKA_SERVERS"], gateway_workers=urls) as gateway:
        with closing(Door(gateway.port)) as door:
            eventually(lambda: door.ask("GET", "/ready").status == 200, within_s=WITHIN_S, what="the gateway ready")
        with stream_of(gateway.port) as stream:
            events = stream.events()
            next(events)
            started_s = time.monotonic()
            code, log = gateway.end()
            assert len(list(events)) < 3  # what was on its way; then the end, in order
            assert (code, "Traceback" in log, "timeout graceful" in log.lower()) == (0, False, False)
            assert time.monotonic() - started_s < 10  # the bound of a drain


def test_dimensions_say_what_can_be_asked(site: Site) -> None:
    """The page knows no field's name by itself."""
    assert site.answer("dimensions") == {
        "stream": "user-tags.v1",
        "kinds": ["VIEW", "BUY"],
        "dimensions": list(DIMENSIONS),
        "sums": ["price"],
        "horizon_s": 86_400,
    }
