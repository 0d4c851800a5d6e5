"""Whatever comes, the answer is one of the contract's, what is `ok` is stored, and what is not is not."""

from __future__ import annotations

import asyncio
import gzip
import json
from typing import Any
from unittest.mock import patch

import jsonschema  # type: ignore[import-untyped]
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway import events_route
from gateway.events_decoding import FAST_ERRORS, decode_all, decode_one, documents_of
from gateway.events_published import json_schemas
from gateway.events_schema import RefusedEventError, parse_moment, read_event, utc_text
from tests.support.events_door import LINES_BODY, Answered, EventsDoor, an_event
from tests.support.from_schema import anything
from tests.support.hostile_bodies import NEAR, VALID

SCHEMAS = json_schemas()["schemas"]
EVENT = SCHEMAS["event"]
SLOW = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""Drawing from a schema takes its time, and more where others use the machine too."""
NAMED = (b"x-request-id", b"r-1")
check_answer = jsonschema.Draft202012Validator(SCHEMAS["answer"]).validate
check_error = jsonschema.Draft202012Validator(SCHEMAS["error"]).validate
check_event = jsonschema.Draft202012Validator(EVENT).validate


def posted(door: EventsDoor, body: bytes, *headers: tuple[bytes, bytes]) -> Answered:
    return asyncio.run(_posted(door, body, headers))


async def _posted(door: EventsDoor, body: bytes, headers: tuple[tuple[bytes, bytes], ...]) -> Answered:
    return await door.post(body, *headers)


def checked(door: EventsDoor, answered: Answered) -> None:
    """Check an answer against its schema, and the ledger: the ids of what is said to be stored are those that are."""
    assert answered.status in (200, 400, 413, 415, 422), answered
    (check_answer if answered.status == 200 else check_error)(answered.body)
    words = answered.words if "results" in answered.body else {}
    said = {name.lower() for name, word in words.items() if word in ("ok", "warning")}
    assert said == {stored.event.id for stored in door.stored()}
    dropped = sum(word == "drop" for word in words.values())
    assert len(door.letters.taken) == (dropped if answered.status == 200 else 0)


def encoded(value: Any) -> bytes:
    """Return JSON as Python writes it: NaN, and surrogates escaped."""
    return json.dumps(value).encode()


@given(st.lists(VALID, min_size=1, max_size=4), st.booleans())
@settings(SLOW, max_examples=150)
def test_what_the_published_schema_allows_is_stored(events: list[Any], is_ascii: bool) -> None:
    """The schema is a promise: who keeps to it loses nothing. Each event is stored with the values that it was sent with."""
    door = EventsDoor()
    answered = posted(door, json.dumps({"batch": events}, ensure_ascii=is_ascii).encode())
    checked(door, answered)
    assert set(answered.words.values()) <= {"ok", "warning", "duplicate"}, answered
    sent = {event["id"].lower(): event for event in reversed(events)}
    for stored in door.stored():
        event = sent[stored.event.id]
        details = json.loads(stored.event.properties)
        assert details["properties"] == event.get("properties", {})
        assert details.get("context", {}) == event.get("context", {})
        assert stored.event.user == (event.get("user_id") or event["anonymous_id"])
        if not details.get("time_adjusted"):
            assert parse_moment(stored.event.time) == parse_moment(event["time"])


@given(st.lists(NEAR | VALID | anything, max_size=5), st.booleans())
@settings(SLOW, max_examples=150)
def test_a_batch_of_anything_is_sorted_event_by_event(values: list[Any], has_lines: bool) -> None:
    """Valid ones are stored whatever stands beside them."""
    door = EventsDoor()
    if has_lines:
        answered = posted(door, b"\n".join(map(encoded, values)), LINES_BODY)
    else:
        answered = posted(door, encoded({"batch": values}))
    checked(door, answered)


@given(st.binary(max_size=200), st.sampled_from([b"", b"gzip", b"deflate", b"zstd", b"br"]), st.booleans())
@settings(SLOW, max_examples=150)
def test_noise_is_refused(noise: bytes, encoding: bytes, is_compressed: bool) -> None:
    """No 5xx, no matter which bytes."""
    door = EventsDoor()
    body = gzip.compress(noise) if is_compressed else noise
    checked(door, posted(door, body, (b"content-encoding", b"gzip" if is_compressed else encoding)))


@given(st.binary(max_size=40), st.integers(0, 10_000), st.integers(0, 20))
@settings(SLOW, max_examples=150)
def test_a_damaged_batch_stores_what_it_says(noise: bytes, place: int, cut: int) -> None:
    """Bytes put into a body, or cut out of it."""
    body = encoded({"batch": [an_event(), an_event(user_id="u2")]})
    place %= len(body)
    door = EventsDoor()
    checked(door, posted(door, body[:place] + noise + body[place + cut :]))


@given(NEAR | VALID, st.booleans())
@settings(SLOW, max_examples=400)
def test_the_fast_decoder_takes_only_what_the_authority_takes(value: Any, is_ascii: bool) -> None:
    """Decision 0005: the pydantic model decides, and both give equal values."""
    try:
        raw = json.dumps(value, ensure_ascii=is_ascii).encode("utf-8", "surrogatepass")
        columns = decode_all((raw,), 0)
    except FAST_ERRORS:
        return
    model = read_event(raw)
    (event,) = columns.events
    for name in type(model).model_fields:
        assert getattr(event, name.rstrip("_")) == getattr(model, name)
    assert columns.ids == [model.id]
    assert columns.at_ms == [parse_moment(model.time)]
    assert columns.times == [utc_text(model.time, columns.at_ms[0])]
    assert not model.model_extra


@given(st.lists(VALID | NEAR, min_size=1, max_size=4), st.booleans())
@settings(SLOW, max_examples=200)
def test_a_batch_read_at_once_becomes_what_its_events_become_one_by_one(events: list[Any], is_ascii: bool) -> None:
    """The way through the whole body is quicker, and nothing else: same answer, same records, same dead letters."""
    body = json.dumps({"batch": events}, ensure_ascii=is_ascii).encode("utf-8", "surrogatepass")
    at_once, one_by_one = EventsDoor(), EventsDoor()
    answered = posted(at_once, body, NAMED)
    with patch.object(events_route, "columns_of", return_value=None):
        assert posted(one_by_one, body, NAMED) == answered
    assert at_once.intake.taken == one_by_one.intake.taken
    assert at_once.letters.taken == one_by_one.letters.taken


@given(NEAR)
@settings(SLOW, max_examples=200)
def test_what_is_taken_is_what_the_published_schema_allows(value: Any) -> None:
    """The other way round: nothing is stored that the schema forbids."""
    raw = encoded(value)
    try:
        decode_one(raw, 0)
    except RefusedEventError:
        return
    check_event(json.loads(raw))


def test_nesting_costs_neither_stack_nor_time() -> None:
    """Ten thousand levels, wherever they stand."""
    for deep in (b"[" * 10_000 + b"]" * 10_000, b'{"a":' * 10_000 + b"1" + b"}" * 10_000):
        for body in (deep, b'{"batch":[' + deep + b"]}", b'{"id":1,"properties":' + deep + b"}"):
            for headers in ((), (LINES_BODY,)):
                door = EventsDoor()
                checked(door, posted(door, body, *headers))
    assert documents_of(b"{}", is_lines=False) == [b"{}"]
