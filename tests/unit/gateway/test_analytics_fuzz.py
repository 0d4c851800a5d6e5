"""Whatever is posted to `/analytics/` is stored as it was sent, or refused and not stored; nothing is an error of ours."""

from __future__ import annotations

import asyncio
import json
from random import Random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from streams.schemas import TEXT_LENGTH_MAX, VALUE_LENGTH_MAX
from tests.support.analytics_door import LabsDoor, a_txn
from tests.support.events_door import Answered
from tests.support.hostile_bodies import damaged, txns
from tests.support.strategies import randoms


def post(body: bytes, door: LabsDoor) -> Answered:
    return asyncio.run(door.post(body))


def can_be_kept(text: object, length_max: int) -> bool:
    return isinstance(text, str) and len(text) <= length_max and "\0" not in text and is_unicode(text)


def is_unicode(value: object) -> bool:
    """Say whether there is no half of a surrogate pair anywhere."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_datapoint(each: object) -> bool:
    if not isinstance(each, dict):
        return False
    return can_be_kept(each.get("key"), TEXT_LENGTH_MAX) and can_be_kept(each.get("value"), VALUE_LENGTH_MAX)


def is_right(txn: dict[str, Any]) -> bool:
    """Say what the specification says, by hand."""
    product, timestamp, pennkey, data = (txn.get(name) for name in ("product", "timestamp", "pennkey", "data"))
    return (
        is_unicode(txn)
        and type(product) is int
        and 0 <= product <= 10
        and is_number(timestamp)
        and -62135596800 <= timestamp < 253402300800  # type: ignore[operator]
        and (pennkey is None or can_be_kept(pennkey, TEXT_LENGTH_MAX))
        and isinstance(data, list)
        and all(map(is_datapoint, data))
    )


@given(txns)
def test_transaction_is_stored_as_sent_or_refused_as_the_specification_says(txn: dict[str, Any]) -> None:
    """P3, P15: the answer is that of a reader by hand; accepted is what is appended, whole and in order."""
    door = LabsDoor()
    body = json.dumps(txn).encode()
    assert post(body, door).status == (200 if is_right(txn) else 400), body
    assert is_stored_as_sent(door, txn if is_right(txn) else None)


def is_stored_as_sent(door: LabsDoor, txn: dict[str, Any] | None) -> bool:
    """Say whether the door has appended exactly this, or nothing."""
    stored = door.stored()
    if txn is None:
        return stored == []
    ((_, event),) = stored
    sent = [(each["key"], each["value"]) for each in txn["data"]]
    return (event.user, [(each.key, each.value) for each in event.data]) == (txn.get("pennkey") or "", sent)


@given(txns, randoms, st.lists(st.tuples(st.sampled_from([b"x-session-id", b"idempotency-key"]), st.binary(max_size=300))))
def test_damaged_body_is_stored_or_refused_and_never_an_error(
    txn: dict[str, Any], random: Random, headers: list[tuple[bytes, bytes]]
) -> None:
    """P15, P25: no 5xx, whatever bytes and headers come; 200 if and only if there is a record that a worker can decode."""
    door = LabsDoor()
    body = damaged(json.dumps(txn | a_txn() if random.random() < 0.5 else txn).encode(), random)
    status = asyncio.run(door.post(body, headers)).status
    assert status in (200, 400), body
    assert len(door.stored()) == (status == 200)
