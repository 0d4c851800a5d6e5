"""What a producer may send to `/v1/events`, what it is told, and what becomes of it."""

from __future__ import annotations

import asyncio
import gzip
import json
import uuid
from typing import Any

import pytest

from gateway.auth.identity import Identity, Quota, Refused
from gateway.events_schema import EVENTS_MAX
from gateway.intake import STALLED, TOO_MANY_WAITING, UNKNOWN
from streams.dead_letters import GATEWAY_STAGE, read_dead_letter
from streams.settings import Events
from streams.topics import EVENT_BYTES_MAX
from tests.support.events_door import NOW_MS, EventsDoor, a_batch, an_event

KNOWN = Identity("mobile", frozenset({"PCR"}), None, "api_key")
ID = str(uuid.UUID(int=7))


@pytest.fixture
def door() -> EventsDoor:
    """A door that takes everybody."""
    return EventsDoor()


async def test_an_event_becomes_one_record_of_its_user(door: EventsDoor) -> None:
    """Everything that was sent is in the record, under the names of `EventV1`."""
    sent = an_event(context={"page": {"title": "Ł"}}, schema="page/1", product="PCR", source="web", anonymous_id="a-1")
    answered = await door.post(json.dumps(sent).encode())
    assert (answered.status, answered.words) == (200, {sent["id"]: "ok"})
    (stored,) = door.stored()
    event = stored.event
    assert (stored.key, event.kind, event.id, event.user) == ("user-1", "EVENT", sent["id"], "user-1")
    assert (event.product, event.source, event.time) == ("PCR", "web", sent["time"])
    assert [(each.key, each.value) for each in event.data] == [("page_viewed", "")]
    details = json.loads(event.properties)
    assert details == {name: sent[name] for name in ("properties", "context", "schema", "anonymous_id")}


async def test_nested_properties_arrive_unchanged(door: EventsDoor) -> None:
    """collector.md §6.1: objects within `properties`, in one event and in a batch."""
    properties = {"$set": {"a": [1, 2.5, None, True, {"b": "ż🍪"}]}, "n": 2**63, "t": '\u0001"\\/', "": {}, "f": -1e-300}
    events = [an_event(properties=properties) for _ in range(3)]
    assert (await door.post(json.dumps(events[0]).encode())).status == 200
    assert (await door.post(a_batch(*events[1:]))).status == 200
    assert [json.loads(stored.event.properties)["properties"] for stored in door.stored()] == [properties] * 3


async def test_the_request_id_comes_back_and_goes_along(door: EventsDoor) -> None:
    """collector.md §1.2: the reply echoes it; who gives none gets one, and its records have none."""
    answered = await door.post(json.dumps(an_event()).encode(), (b"x-request-id", b"r-1"))
    assert (answered.headers[b"x-request-id"], answered.body["request_id"]) == (b"r-1", "r-1")
    unnamed = await door.post(json.dumps(an_event()).encode())
    assert unnamed.headers[b"x-request-id"].decode() == unnamed.body["request_id"] != ""
    assert [stored.headers for stored in door.stored()] == [{"request-id": b"r-1"}, {}]
    refused = await door.post(b"{", (b"x-request-id", b"r-2"))
    assert (refused.status, refused.headers[b"x-request-id"]) == (400, b"r-2")


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no id": ({"id": ...}, "schema.missing_field"),
    "id is no UUID": ({"id": "a-1"}, "schema.wrong_type"),
    "id is no text": ({"id": 5}, "schema.wrong_type"),
    "no type": ({"type": ...}, "schema.missing_field"),
    "type is empty": ({"type": ""}, "schema.limit"),
    "type is too long": ({"type": "x" * 513}, "schema.limit"),
    "nobody": ({"user_id": ...}, "schema.missing_field"),
    "user is null": ({"user_id": None}, "schema.missing_field"),
    "user is empty": ({"user_id": "", "anonymous_id": ""}, "schema.missing_field"),
    "user is a number": ({"user_id": 5}, "schema.wrong_type"),
    "user is too long": ({"user_id": "u" * 513}, "schema.limit"),
    "no time": ({"time": ...}, "schema.missing_field"),
    "time is a number": ({"time": 5}, "schema.wrong_type"),
    "time without offset": ({"time": "2026-11-23T12:00:00"}, "time"),
    "impossible day": ({"time": "2026-02-30T12:00:00Z"}, "time"),
    "impossible offset": ({"time": "2026-02-03T12:00:00+24:00"}, "time"),
    "before 1970": ({"time": "1970-01-01T00:00:00+00:01"}, "time"),
    "unreadable time": ({"time": "yesterday"}, "time"),
    "NUL": ({"user_id": "a\0b"}, "text"),
    "NUL in a property": ({"properties": {"a": ["b\0"]}}, "text"),
    "NUL in a key": ({"properties": {"a\0": 1}}, "text"),
    "properties are a list": ({"properties": []}, "schema.wrong_type"),
    "properties are null": ({"properties": None}, "schema.wrong_type"),
    "101 properties": ({"properties": dict.fromkeys(map(str, range(101)))}, "schema.limit"),
    "nine levels": ({"context": json.loads('{"a":' * 9 + "1" + "}" * 9)}, "schema.limit"),
    "key of 129 bytes": ({"properties": {"k" * 129: 1}}, "schema.limit"),
    "key of 130 bytes in 65 characters": ({"properties": {"ż" * 65: 1}}, "schema.limit"),
    "value of 8,193 bytes": ({"properties": {"a": "v" * 8_193}}, "schema.limit"),
    "value of 8,194 bytes in 4,097 characters": ({"properties": {"a": "ż" * 4_097}}, "schema.limit"),
    "no finite number": ({"properties": {"a": 10**400}}, "schema.limit"),
    "256 KiB": ({"context": {str(n): "x" * 8_000 for n in range(33)}}, "too_large"),
}


@pytest.mark.parametrize(("changes", "code"), BAD.values(), ids=BAD)
async def test_a_bad_event_is_dropped_beside_a_good_one(door: EventsDoor, changes: dict[str, Any], code: str) -> None:
    """collector.md §1.2, §2: valid events are stored even when neighbors are refused, and the refused are dead letters."""
    good, bad = an_event(), an_event(**changes)
    answered = await door.post(a_batch(bad, good), (b"x-request-id", b"r-1"))
    name = bad["id"] if isinstance(bad.get("id"), str) else "[0]"
    assert (answered.status, answered.words) == (200, {good["id"]: "ok", name: "drop"})
    assert answered.body["results"][name]["code"] == code
    assert b"retry-after" not in answered.headers
    assert [stored.event.id for stored in door.stored()] == [good["id"]]
    ((key, value, headers),) = door.letters.taken
    assert json.dumps(bad).encode().startswith(value)
    assert len(value) <= EVENT_BYTES_MAX
    said = dict(headers)
    assert (said["request-id"], said["reason"], said["stage"]) == (b"r-1", code.encode(), GATEWAY_STAGE.encode())
    assert key.decode() == (bad["user_id"] if isinstance(bad.get("user_id"), str) else "")[:512]
    assert door.count("tally_gateway_refused_total", reason=code) == 1


async def test_the_largest_of_everything_is_stored(door: EventsDoor) -> None:
    """Each limit at n."""
    deep = json.loads('{"a":' * 8 + "1" + "}" * 8)
    largest = [
        an_event(type="t" * 512, user_id="🍪" * 512, product="p" * 512),
        an_event(properties=dict.fromkeys(map(str, range(100)))),
        an_event(properties=deep, context=deep),
        an_event(properties={"k" * 128: "v" * 8_192, "ż" * 64: "🍪" * 2_048, "n": int("9" * 308), "f": 1.7e308}),
        an_event(context={str(n): "x" * 8_000 for n in range(32)}),
        an_event(time="2026-11-23T13:59:59.999999999+02:00"),
    ]
    answered = await door.post(a_batch(*largest))
    assert answered.words == {event["id"]: "ok" for event in largest}
    assert door.stored()[-1].event.time == "2026-11-23T11:59:59.999Z"


async def test_details_that_grow_past_their_limit_are_refused(door: EventsDoor) -> None:
    """An event of 256 KB fits into its record, but for numbers that are longer when they are written out."""
    good, large = an_event(), an_event(properties={"n": "@"})
    body = a_batch(good, large).replace(b'"@"', b"[" + b",".join([b"1e15"] * 50_000) + b"]")
    answered = await door.post(body)
    assert answered.words == {good["id"]: "ok", large["id"]: "drop"}
    assert answered.body["results"][large["id"]]["code"] == "schema.limit"
    ((_, value, _),) = door.letters.taken
    assert b"1e15" in value


async def test_a_dead_letter_has_a_position_of_its_own(door: EventsDoor) -> None:
    """Decision 0025: made of its bytes, so the same event dropped twice is one, and another one is another."""
    first, second = an_event(type=...), an_event(type=...)
    for bad in (first, second, first):
        await door.post(a_batch(an_event(), bad))
    letters = [read_dead_letter(FoundRecord(key, value, tuple(headers))) for key, value, headers in door.letters.taken]
    places = [letter.source for letter in letters if letter is not None]
    assert places[0] == places[2] != places[1]
    assert {(place.topic, place.partition) for place in places} == {("/v1/events", 0)}
    assert all(0 <= place.offset < 2**63 for place in places)


class FoundRecord:
    """A record as a reader gives it."""

    offset = 0
    timestamp = NOW_MS

    def __init__(self, key: bytes, value: bytes, headers: tuple[tuple[str, bytes], ...]) -> None:
        self.key, self.value, self.headers = key, value, headers


async def test_an_empty_user_is_nobody(door: EventsDoor) -> None:
    """Libraries send it before anybody has logged in; the anonymous id counts then."""
    await door.post(a_batch(an_event(user_id="", anonymous_id="a-1"), an_event(user_id=None, anonymous_id="a-1")))
    assert [(stored.key, json.loads(stored.event.properties).get("anonymous_id")) for stored in door.stored()] == [
        ("a-1", None)
    ] * 2


async def test_unknown_fields_are_left_out_and_told(door: EventsDoor) -> None:
    """collector.md §1.2: `warning`, the event is stored."""
    event = an_event(colour="red", size=5)
    answered = await door.post(a_batch(event, an_event()))
    assert answered.body["results"][event["id"]] == {
        "result": "warning",
        "code": "unknown_field",
        "detail": "left out: 'colour', 'size'",
    }
    assert "red" not in door.stored()[0].event.properties


@pytest.mark.parametrize(
    ("time", "is_adjusted"),
    [
        ("2026-11-22T12:00:00.000Z", False),
        ("2026-11-22T11:59:59.999Z", True),
        ("2026-11-23T12:01:00Z", False),
        ("2026-11-23T12:01:00.001Z", True),
        ("2026-11-24T02:01:00+14:00", False),
        ("1999-01-01T00:00:00+14:00", True),
    ],
)
async def test_a_time_too_far_from_now_becomes_that_of_arrival(door: EventsDoor, time: str, is_adjusted: bool) -> None:
    """collector.md §3: [now - 24 h, now + 60 s], to the millisecond; outside `warning`, kept with server time and a flag."""
    assert NOW_MS == 1_795_435_200_000, "2026-11-23T12:00:00Z"
    event = an_event(time=time)
    answered = await door.post(a_batch(an_event(), event))
    result = answered.body["results"][event["id"]]
    stored = door.stored()[1].event
    details = json.loads(stored.properties)
    if is_adjusted:
        assert (result["result"], result["code"]) == ("warning", "time_adjusted")
        assert stored.time == "2026-11-23T12:00:00.000Z"
        assert (details["time_adjusted"], details["time_given"]) == (True, time)
    else:
        assert result == {"result": "ok"}
        assert "time_adjusted" not in details


async def test_bounds_of_time_are_settings() -> None:
    """Issue 7: a setting of the stream; 0 switches a bound off."""
    door = EventsDoor(settings=Events(time_past_s=0, time_future_s=3_600))
    past, soon, later = (
        an_event(time=f"{time}Z") for time in ("1970-01-01T00:00:00", "2026-11-23T13:00:00", "2026-11-23T13:01:00")
    )
    answered = await door.post(a_batch(past, soon, later))
    assert answered.words == {past["id"]: "ok", soon["id"]: "ok", later["id"]: "warning"}


async def test_an_event_is_known_after_it_was_acknowledged(door: EventsDoor) -> None:
    """collector.md §2: same id of the same user: `duplicate`; another payload: the first wins, and it is counted."""
    event = an_event()
    await door.post(a_batch(event))
    again = await door.post(
        a_batch(event, an_event(id=event["id"].upper(), type="other"), an_event(id=event["id"], user_id="u2"))
    )
    assert again.status == 200
    assert again.words == {event["id"]: "ok", event["id"].upper(): "duplicate"}, "another user's is another event"
    assert (await door.post(a_batch(event))).words == {event["id"]: "duplicate"}
    assert [stored.key for stored in door.stored()] == ["user-1", "u2"]
    assert door.count("tally_gateway_event_conflicts_total") == 1
    assert door.count("tally_gateway_event_results_total", route="events", result="duplicate") == 2


async def test_an_id_that_stands_twice_in_a_body_is_counted_once(door: EventsDoor) -> None:
    """collector.md §2: duplicate ids inside one body: the first one counts."""
    event = an_event()
    answered = await door.post(a_batch(event, event, event | {"type": "other"}))
    assert answered.words == {event["id"]: "ok"}
    assert [stored.event.data[0].key for stored in door.stored()] == ["page_viewed"]
    assert door.count("tally_gateway_event_conflicts_total") == 1


async def test_what_kafka_did_not_acknowledge_is_to_be_sent_again(door: EventsDoor) -> None:
    """collector.md §1.2: `retry` and Retry-After, `ok` only for what is durable; and it is not taken for a duplicate then."""
    door.intake.fate = lambda key: UNKNOWN if key == b"u2" else None
    stored, lost = an_event(), an_event(user_id="u2")
    answered = await door.post(a_batch(stored, lost))
    assert (answered.status, answered.words) == (200, {stored["id"]: "ok", lost["id"]: "retry"})
    assert answered.body["results"][lost["id"]]["code"] == "not_acknowledged"
    assert answered.headers[b"retry-after"] == b"1"
    door.intake.fate = lambda key: None
    again = await door.post(a_batch(stored, lost))
    assert again.words == {stored["id"]: "duplicate", lost["id"]: "ok"}
    assert b"retry-after" not in again.headers


async def test_nothing_acknowledged_is_503(door: EventsDoor) -> None:
    """collector.md §1.1: a destination's error never becomes 200."""
    door.intake.fate = lambda key: STALLED
    event = an_event()
    answered = await door.post(a_batch(event, an_event(type=...)))
    assert (answered.status, answered.code, answered.headers[b"retry-after"]) == (503, "kafka_unavailable", b"1")
    assert answered.words[event["id"]] == "retry"


async def test_a_dropped_event_whose_dead_letter_is_not_stored_is_to_be_sent_again(door: EventsDoor) -> None:
    """`drop` promises that it is among the dead letters."""
    door.letters.fate = lambda key: UNKNOWN
    good, bad = an_event(), an_event(type=...)
    answered = await door.post(a_batch(good, bad))
    assert (answered.status, answered.words) == (200, {good["id"]: "ok", bad["id"]: "retry"})
    assert answered.headers[b"retry-after"] == b"1"


@pytest.mark.parametrize("why", [STALLED, TOO_MANY_WAITING])
async def test_while_nothing_can_be_taken_a_request_is_refused_unread(door: EventsDoor, why: Any) -> None:
    """collector.md §2, back-pressure: 503 + Retry-After before any work."""
    door.intake.why = why
    answered = await door.post(b"no JSON at all")
    assert (answered.status, answered.code, answered.headers[b"retry-after"]) == (503, why.code, b"1")
    door.intake.why = None
    assert (await door.post(a_batch(an_event()))).status == 200


async def test_ok_waits_for_the_acknowledgment(door: EventsDoor) -> None:
    """collector.md §2: 200 with `ok` only after `acks=all`."""
    door.intake.fate = None
    asking = asyncio.ensure_future(door.post(a_batch(an_event(), an_event())))
    while len(door.intake.waiting) < 2:
        await asyncio.sleep(0)
    door.intake.waiting.pop()(None)
    await asyncio.sleep(0)
    assert not asking.done()
    door.intake.waiting.pop()(None)
    assert (await asking).status == 200


async def test_without_waiting_the_answer_promises_nothing(door: EventsDoor) -> None:
    """`?wait=false`: 202 at once, with what is refused; and 503 all the same when nothing is taken."""
    door.intake.fate = None
    bad = an_event(type=...)
    answered = await door.post(a_batch(an_event(), bad), query=b"wait=false")
    assert (answered.status, answered.words) == (202, {bad["id"]: "drop"})
    assert len(door.intake.taken) == 1
    assert door.count("tally_gateway_event_results_total", route="events", result="queued") == 1
    door.intake.why = STALLED
    assert (await door.post(a_batch(an_event()), query=b"a=b&wait=false")).status == 503


async def test_credentials_settle_source_and_product() -> None:
    """security.md row 4: what is not said is filled in, what is said otherwise is 403 and nothing is produced."""
    door = EventsDoor(KNOWN)
    assert (await door.post(a_batch(an_event(), an_event(product="PCR", source="mobile")))).status == 200
    assert {(stored.event.product, stored.event.source) for stored in door.stored()} == {("PCR", "mobile")}
    for changes in ({"product": "OHQ"}, {"source": "web"}):
        answered = await door.post(a_batch(an_event(), an_event(**changes)))
        assert (answered.status, answered.code) == (403, "forbidden")
    assert len(door.intake.taken) == 2
    many = EventsDoor(Identity("x", frozenset({"PCR", "OHQ"}), None, "jwt"))
    assert (await many.post(a_batch(an_event()))).status == 403, "of several products an event names one"
    other_stream = EventsDoor(Identity("x", None, frozenset({"user-tags.v1"}), "jwt"))
    assert (await other_stream.post(a_batch(an_event()))).status == 403


@pytest.mark.parametrize("status", [401, 403, 429, 503])
async def test_who_is_not_let_through_is_told_before_the_body_is_read(status: int) -> None:
    """collector.md §1.1."""
    door = EventsDoor(Refused(status, "no", 7 if status in (429, 503) else None))
    answered = await door.post(b"no JSON at all")
    assert answered.status == status
    assert answered.headers.get(b"retry-after") == (b"7" if status in (429, 503) else None)


async def test_a_quota_counts_events() -> None:
    """security.md row 5: weighted by the size of the batch; the headers tell what is left."""
    door = EventsDoor(KNOWN, quota=Quota(events_per_s=10.0))
    answered = await door.post(a_batch(*(an_event() for _ in range(6))))
    assert (answered.status, answered.headers[b"x-ratelimit-remaining"]) == (200, b"4")
    refused = await door.post(a_batch(*(an_event() for _ in range(6))))
    assert (refused.status, b"retry-after" in refused.headers) == (429, True)
    assert len(door.intake.taken) == 6


async def test_clocks_are_compared(door: EventsDoor) -> None:
    """collector.md §3: X-Sent-At against receipt."""
    for sent_at in (b"2026-11-23T12:00:02Z", b"2026-11-23T12:59:58+01:00", b"nonsense"):
        await door.post(a_batch(an_event()), (b"x-sent-at", sent_at))
    for direction in ("ahead", "behind"):
        assert door.count("tally_gateway_clock_skew_seconds_count", direction=direction) == 1
        assert door.count("tally_gateway_clock_skew_seconds_sum", direction=direction) == 2


async def test_one_bad_event_costs_its_neighbors_nothing(door: EventsDoor) -> None:
    """A thousand events of which each tenth is wrong: all others are stored, in their order."""
    events = [an_event(user_id="u", properties={"n": n}, **({"time": "?"} if n % 10 == 3 else {})) for n in range(EVENTS_MAX)]
    answered = await door.post(gzip.compress(a_batch(*events)), (b"content-encoding", b"gzip"))
    good = [event["id"] for event in events if event["time"] != "?"]
    assert [stored.event.id for stored in door.stored()] == good
    assert answered.words == {event["id"]: "drop" if event["time"] == "?" else "ok" for event in events}
    assert len(door.letters.taken) == EVENTS_MAX - len(good)


async def test_a_refused_event_may_have_the_id_of_a_valid_one(door: EventsDoor) -> None:
    """The valid one's result is not hidden."""
    good = an_event(id=ID)
    answered = await door.post(a_batch(good, an_event(id=ID, type=...), an_event(id=ID, time=...)))
    assert answered.words == {ID: "ok", "[1]": "drop", "[2]": "drop"}
