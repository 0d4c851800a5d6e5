"""A beacon is answered 204 whatever it holds; what of it is right is stored, the rest is counted."""

from __future__ import annotations

import json

import pytest

from gateway.auth.identity import Identity, Refused
from gateway.events_beacon import BODY_BYTES_MAX
from gateway.intake import STALLED
from tests.support.events_door import EventsDoor, a_batch, an_event

TEXT = (b"content-type", b"text/plain;charset=UTF-8")


@pytest.mark.parametrize(
    ("body", "query"),
    [
        (a_batch(an_event()), b"key=a_b"),
        (json.dumps({"key": "a_b", "batch": [an_event()]}).encode(), b""),
        (json.dumps(an_event(key="a_b")).encode(), b""),
        (a_batch(an_event()), b"x=1&key=a%5Fb"),
    ],
)
async def test_a_beacon_is_stored_under_its_key(body: bytes, query: bytes) -> None:
    """A page cannot set headers on a beacon: the key is in the query or in the body, and never in the record."""
    door = EventsDoor(Identity("web", None, None, "api_key"))
    door.intake.fate = None
    answered = await door.post(body, TEXT, query=query, beacon=True)
    assert (answered.status, answered.body) == (204, None)
    assert dict(door.authenticator.asked[0])[b"authorization"] == b"ApiKey a_b"
    (stored,) = door.stored()
    assert stored.event.source == "web"
    assert "a_b" not in stored.event.properties
    assert door.count("tally_gateway_event_results_total", route="beacon", result="queued") == 1
    assert door.count("tally_gateway_requests_total", route="beacon", code="204") == 1


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "400"),
        (b"{", "400"),
        (b"\xff", "400"),
        (b"[]", "400"),
        (a_batch(), "422"),
        (a_batch(an_event(type=...)), "422"),
        (b" " * (BODY_BYTES_MAX + 1), "413"),
    ],
)
async def test_a_refused_beacon_is_counted(body: bytes, code: str) -> None:
    """collector.md §1.1: always 204, so the count is all that shows a page that sends nonsense."""
    door = EventsDoor()
    assert (await door.post(body, TEXT, beacon=True)).status == 204
    assert door.count("tally_gateway_beacon_refusals_total", code=code) == 1
    assert door.intake.taken == []


async def test_a_beacon_promises_nothing() -> None:
    """Without credentials, without Kafka: 204, counted, not stored."""
    for door, code in ((EventsDoor(Refused(401, "no")), "401"), (EventsDoor(), "503")):
        door.intake.why = STALLED
        assert (await door.post(a_batch(an_event()), TEXT, beacon=True)).status == 204
        assert door.count("tally_gateway_beacon_refusals_total", code=code) == 1
        assert door.intake.taken == []


async def test_credentials_in_a_header_win() -> None:
    """Who can set one does not put the key where logs have it."""
    door = EventsDoor()
    await door.post(a_batch(an_event()), TEXT, (b"authorization", b"Bearer x"), query=b"key=a_b", beacon=True)
    assert [value for name, value in door.authenticator.asked[0] if name == b"authorization"] == [b"Bearer x"]


async def test_a_good_event_of_a_beacon_is_stored_beside_a_bad_one() -> None:
    """And the bad one is a dead letter, as it is by the other route."""
    door = EventsDoor()
    await door.post(a_batch(an_event(), an_event(time="?")), TEXT, beacon=True)
    assert (len(door.intake.taken), len(door.letters.taken)) == (1, 1)
    assert door.count("tally_gateway_event_results_total", route="beacon", result="drop") == 1
