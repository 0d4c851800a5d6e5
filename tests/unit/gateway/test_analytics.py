"""What Labs' products may post, what they are told, and what becomes of it: one record a transaction, or nothing."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from gateway.analytics import NOT_ACKNOWLEDGED
from gateway.analytics_txn import Product
from gateway.auth.identity import Identity, Quota, Refused
from gateway.intake import STALLED, UNKNOWN
from streams.settings import Analytics, Gateway, Settings
from tests.support.analytics_door import STORED, LabsDoor, a_txn, body_of
from tests.support.labs_matrix import ACCEPTED, BAD_BODIES, HOSTILE

SESSION, OTHER_SESSION = (b"x-session-id", b"s"), (b"x-session-id", b"t")


@pytest.fixture
def door() -> LabsDoor:
    return LabsDoor()


@pytest.mark.parametrize("changes", ACCEPTED.values(), ids=list(ACCEPTED))
async def test_accepted_transaction_is_one_record(changes: dict[str, Any], door: LabsDoor) -> None:
    """P1, P3: 200 with the exact message, and all datapoints in one record under the product's name."""
    answered = await door.post(body_of(**changes))
    assert answered[:2] == STORED
    txn = a_txn(**changes)
    ((key, event),) = door.stored()
    assert (key, event.product, event.kind) == ("MOBILE_BACKEND", "MOBILE_BACKEND", "TRANSACTION")
    assert (event.user, event.source) == (txn.get("pennkey") or "", "")
    assert [(each.key, each.value) for each in event.data] == [(each["key"], each["value"]) for each in txn["data"]]


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=list(BAD_BODIES))
async def test_refused_transaction_is_400_with_its_detail_and_no_record(body: bytes, door: LabsDoor) -> None:
    """P3, P15: not 422; the detail says what is wrong, and nothing is produced."""
    answered = await door.post(body)
    assert answered.status == 400
    assert set(answered.body) == {"detail"}
    assert answered.body["detail"]
    assert door.intake.taken == []
    assert door.count("tally_gateway_events_total", result="refused") == 1


@pytest.mark.parametrize(
    ("timestamp", "time", "properties"),
    [
        (1704067200, "2024-01-01T00:00:00.000Z", "{}"),
        (1704067200.75, "2024-01-01T00:00:00.750Z", "{}"),
        (1704067200.123456, "2024-01-01T00:00:00.123456Z", "{}"),
        (253402300799, "9999-12-31T23:59:59.000Z", "{}"),
        (-5, "1970-01-01T00:00:00.000Z", '{"occurred_at":"1969-12-31T23:59:55.000Z"}'),
        (-62135596800, "1970-01-01T00:00:00.000Z", '{"occurred_at":"0001-01-01T00:00:00.000Z"}'),
    ],
)
async def test_time_is_kept_to_the_microsecond(timestamp: float, time: str, properties: str, door: LabsDoor) -> None:
    """P1, P3: UTC, whatever the server's zone; what lies before the first event time is told beside it, so nothing is lost."""
    await door.post(body_of(timestamp=timestamp))
    ((_, event),) = door.stored()
    assert (event.time, event.properties) == (time, properties)


async def test_every_product_of_labs_has_its_name(door: LabsDoor) -> None:
    """P4: eleven numbers, eleven names, each of them the key of its records."""
    for number in range(11):
        assert (await door.post(body_of(product=number)))[:2] == STORED
    names = ["OTHER", "MOBILE_IOS", "MOBILE_ANDROID", "MOBILE_BACKEND", "PORTAL", "PCR", "PDP", "PCA", "PCP", "OHQ", "CLUBS"]
    assert [(key, event.product) for key, event in door.stored()] == [(name, name) for name in names]
    assert [product.name for product in Product] == names


@pytest.mark.parametrize("value", HOSTILE)
async def test_hostile_value_is_kept_as_it_is(value: str, door: LabsDoor) -> None:
    """P15: the original lost every value with an apostrophe."""
    assert (await door.post(body_of(data=[{"key": value, "value": value}], pennkey=value)))[:2] == STORED
    ((_, event),) = door.stored()
    assert (event.data[0].key, event.data[0].value, event.user) == (value, value, value)


@pytest.mark.parametrize(("bytes_max", "status"), [(3_900_000, 400), (900_000, 413)])
async def test_value_of_a_megabyte_is_refused(bytes_max: int, status: int) -> None:
    """P15: 400 where the body is taken and the value is not, 413 where the body is not."""
    door = LabsDoor(settings=Settings(analytics=Analytics(body_bytes_max=bytes_max)))
    answered = await door.post(body_of(data=[{"key": "a", "value": "x" * 1_000_000}]))
    assert (answered.status, door.intake.taken) == (status, [])


# -- submitted again


async def test_same_body_twice_is_the_same_transaction(door: LabsDoor) -> None:
    """P14: equal user and id, by which the worker leaves the second one out; spelling and extra keys make no difference."""
    spelled = json.dumps(a_txn(timestamp=1704067200.0, more=1), indent=2).encode()
    for body in (body_of(), body_of(), spelled):
        assert (await door.post(body))[:2] == STORED
    assert len({(event.user, event.id) for _, event in door.stored()}) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"product": 4},
        {"pennkey": "other"},
        {"pennkey": None},
        {"timestamp": 1704067200.000001},
        {"data": []},
        {"data": [{"key": "user.click1", "value": ""}]},
        {"data": list(reversed(a_txn()["data"]))},
    ],
)
async def test_other_content_is_another_transaction(changes: dict[str, Any], door: LabsDoor) -> None:
    """P14: nothing that differs is taken for a duplicate, datapoints in another order included."""
    await door.post(body_of())
    await door.post(body_of(**changes))
    first, second = (event.id for _, event in door.stored())
    assert first != second


async def test_same_datapoint_twice_in_a_transaction_stays_two(door: LabsDoor) -> None:
    """P14, ours: the original keeps one of them; two clicks are two."""
    await door.post(body_of(data=[{"key": "user.click", "value": "1"}] * 2))
    ((_, event),) = door.stored()
    assert len(event.data) == 2


async def test_idempotency_key_names_the_transaction_within_its_identity() -> None:
    """P14: whoever sends other content under the same key has sent the first one again; another sender's key is another."""
    door = LabsDoor(Identity("one", None, None, "jwt"))
    await door.post(body_of(), [(b"idempotency-key", b"a-1")])
    await door.post(body_of(timestamp=5), [(b"idempotency-key", b"a-1")])
    await door.post(body_of(), [(b"idempotency-key", b"a-2")])
    await door.post(body_of())
    door.authenticator.said = Identity("two", None, None, "jwt")
    await door.post(body_of(), [(b"idempotency-key", b"a-1")])
    first, again, *others = (event.id for _, event in door.stored())
    assert first == again
    assert len({first, *others}) == 4


@pytest.mark.parametrize("key", [b"", b"x" * 257, b"\xff", b"a\tb"])
async def test_idempotency_key_that_is_none_is_refused(key: bytes, door: LabsDoor) -> None:
    """P14: one that is passed over silently would let the transaction count twice."""
    answered = await door.post(body_of(), [(b"idempotency-key", key)])
    assert (answered.status, door.intake.taken) == (400, [])


# -- who it was


async def test_user_is_the_bodys_or_the_sessions(door: LabsDoor) -> None:
    """P11: the body wins; without it the session's user, once known; an unknown session is nobody, and no error."""
    posts: list[tuple[dict[str, Any], list[tuple[bytes, bytes]], str]] = [
        ({"pennkey": None}, [SESSION], ""),
        ({"pennkey": "judtin"}, [SESSION], "judtin"),
        ({"pennkey": ...}, [SESSION], "judtin"),
        ({"pennkey": ""}, [SESSION], "judtin"),
        ({"pennkey": None}, [OTHER_SESSION], ""),
        ({"pennkey": None}, [(b"x-session-id", b"")], ""),
        ({"pennkey": "other"}, [SESSION], "other"),
        ({"pennkey": None}, [SESSION], "other"),
    ]
    for changes, headers, _ in posts:
        assert (await door.post(body_of(**changes), headers))[:2] == STORED
    assert [event.user for _, event in door.stored()] == [user for _, _, user in posts]


async def test_two_visitors_that_nobody_knows_are_two(door: LabsDoor) -> None:
    """P11, P14: the same click in the same second, of two sessions: without the session in the id one would be lost."""
    for session in (SESSION, OTHER_SESSION, SESSION):
        await door.post(body_of(pennkey=None), [session])
    one, two, one_again = (event.id for _, event in door.stored())
    assert one != two
    assert one == one_again


async def test_refused_request_teaches_no_session(door: LabsDoor) -> None:
    """P9, P11: otherwise anybody could say whose session it is."""
    door.authenticator.said = Refused(401, "Missing Key")
    await door.post(body_of(), [SESSION])
    door.authenticator.said = Identity("one", frozenset({"PCR"}), None, "jwt")
    await door.post(body_of(), [SESSION])
    assert len(door.sessions) == 0


# -- who may


@pytest.mark.parametrize("refused", [Refused(401, "Authorization header missing"), Refused(403, "no"), Refused(503, "down", 7)])
async def test_who_is_not_let_through_is_told_in_labs_form(refused: Refused, door: LabsDoor) -> None:
    """P9: the status and detail of the authenticator, and nothing produced, whatever the body is."""
    door.authenticator.said = refused
    for body in (body_of(), b"junk"):
        answered = await door.post(body)
        assert (answered.status, answered.body) == (refused.status, {"detail": refused.detail})
        assert answered.headers.get(b"retry-after") == (b"7" if refused.status == 503 else None)
    assert door.intake.taken == []


async def test_identity_writes_for_its_products_only() -> None:
    """P9: 403 for others; what is stored names its source."""
    door = LabsDoor(Identity("urn:pennlabs:pcr", frozenset({"PCR"}), None, "jwt"))
    assert (await door.post(body_of(product=4))).status == 403
    assert (await door.post(body_of(product=5))).status == 200
    ((_, event),) = door.stored()
    assert (event.product, event.source) == ("PCR", "urn:pennlabs:pcr")
    door.authenticator.said = Identity("other", None, frozenset({"user-tags.v1"}), "api_key")
    assert (await door.post(body_of(product=5))).status == 403


@pytest.mark.parametrize(("proto", "status"), [(b"http", 403), (b"https", 200)])
async def test_production_asks_for_tls(proto: bytes, status: int) -> None:
    """P10: what came in clear is refused, in the form that the products know; and nothing of it is stored."""
    door = LabsDoor(settings=Settings(gateway=Gateway(environment="production")))
    answered = await door.post(body_of(), [(b"x-forwarded-proto", proto)])
    assert (answered.status, len(door.intake.taken)) == (status, int(status == 200))
    assert set(answered.body) == ({"message"} if status == 200 else {"detail"})


async def test_quota_is_by_datapoints() -> None:
    """A transaction past its identity's quota is 429 with the time to come again, and counts when it does."""
    door = LabsDoor(Identity("one", None, None, "jwt", Quota(events_per_s=3)))
    assert (await door.post(body_of())).headers[b"x-ratelimit-remaining"] == b"0"
    answered = await door.post(body_of())
    assert (answered.status, answered.headers[b"retry-after"]) == (429, b"1")
    door.clock.step(1)
    assert (await door.post(body_of())).status == 200
    assert len(door.intake.taken) == 2


# -- what else may happen


@pytest.mark.parametrize("fate", [STALLED, UNKNOWN])
async def test_transaction_that_kafka_does_not_acknowledge_is_503(fate: Any, door: LabsDoor) -> None:
    """P13: never success without the acknowledgment; sent again it is the same transaction, even when it was stored."""
    door.intake.fate = fate
    answered = await door.post(body_of())
    assert (answered.status, answered.body) == (503, {"detail": NOT_ACKNOWLEDGED})
    assert answered.headers[b"retry-after"] == b"1"
    door.intake.fate = None
    assert (await door.post(body_of())).status == 200
    assert len({event.id for _, event in door.stored()}) == 1


async def test_bug_is_500_counted_and_logged_with_the_transaction(door: LabsDoor, caplog: pytest.LogCaptureFixture) -> None:
    """P25: neither stack nor payload in the answer; the id in the log finds the transaction."""
    door.intake.bug = RuntimeError("judtin")
    answered = await door.post(body_of(), [(b"x-request-id", b"r-1")])
    assert answered.status == 500
    assert "judtin" not in str(answered.body)
    assert door.count("tally_gateway_failures_total", route="analytics") == 1
    (line,) = (record for record in caplog.records if record.levelno == logging.ERROR)
    door.intake.bug = None
    await door.post(body_of())
    ((_, event),) = door.stored()
    assert (vars(line)["txn_id"], vars(line)["request_id"]) == (event.id, "r-1")


async def test_large_bodies_that_arrive_at_once_are_bounded(door: LabsDoor) -> None:
    """Past the limit of memory one is told to come again; what was reserved is free afterwards."""
    piece = {"type": "http.request", "body": body_of(), "more_body": True}
    end = {"type": "http.request", "body": b"", "more_body": False}
    door.analytics.body_room._free_bytes = 1_000_000
    assert (await door.post(body_of())).status == 200, "one that came whole needs no room"
    answered = await door.ask([piece, end], [(b"content-length", b"1000001")])
    assert answered is not None
    assert (answered.status, b"retry-after" in answered.headers) == (503, True)
    for _ in range(2):
        answered = await door.ask([piece, end], [(b"content-length", b"1000000")])
        assert answered is not None
        assert answered.status == 200


async def test_client_that_goes_gets_no_answer_and_stores_nothing(door: LabsDoor) -> None:
    """Half a body is no transaction."""
    half = {"type": "http.request", "body": body_of(), "more_body": True}
    assert await door.ask([half]) is None
    assert door.intake.taken == []


async def test_request_id_goes_into_answer_and_record(door: LabsDoor) -> None:
    """The name that a client gives its request finds its dead letter."""
    answered = await door.post(body_of(), [(b"x-request-id", b"r-1")])
    assert answered.headers[b"x-request-id"] == b"r-1"
    assert door.intake.headers == [("request-id", b"r-1")]


async def test_other_method_is_405(door: LabsDoor) -> None:
    """P22: the resource is posted to."""
    answered = await door.post(b"", method="GET")
    assert (answered.status, answered.headers[b"allow"], set(answered.body)) == (405, b"OPTIONS, POST", {"detail"})
    options = await door.post(b"", method="OPTIONS")
    assert (options.status, options.headers) == (204, {b"allow": b"OPTIONS, POST"}), "who asks for the methods is told"
