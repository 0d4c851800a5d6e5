"""What the Labs' intake takes and refuses: changes of `a_txn`, by what they try, and bodies that are no transactions."""

from __future__ import annotations

from typing import Any

from streams.schemas import DATAPOINTS_MAX, TEXT_LENGTH_MAX, VALUE_LENGTH_MAX
from tests.support.analytics_door import body_of

NUL = "\0"
LONG = "x" * (TEXT_LENGTH_MAX + 1)
HOSTILE = ("O'Brien", '"x"', "🍪 zażółć", "'; DROP TABLE event; --", "\u2028\n\t\\", "\u0001\x7f", "")
"""Texts that others have lost or misunderstood."""

ACCEPTED: dict[str, dict[str, Any]] = {
    "as specified": {},
    "timestamp with a fraction": {"timestamp": 1704067200.75},
    "timestamp before 1970": {"timestamp": -5},
    "timestamp zero": {"timestamp": 0},
    "no pennkey": {"pennkey": ...},
    "pennkey null": {"pennkey": None},
    "no data": {"data": []},
    "quotes and apostrophes": {"data": [{"key": "a", "value": 'O\'Brien said "x"'}]},
    "hostile values": {"data": [{"key": value, "value": value} for value in HOSTILE]},
    "extra keys": {"more": {"x": [1]}, "data": [{"key": "a", "value": "1", "more": 5}]},
    "longest texts": {"data": [{"key": "k" * TEXT_LENGTH_MAX, "value": "🍪" * VALUE_LENGTH_MAX}]},
    "most datapoints": {"data": [{"key": "a", "value": "1"}] * DATAPOINTS_MAX},
}
NO_PRODUCTS: list[Any] = [99, -1, "3", "MOBILE_BACKEND", None, True, 3.0, [3], ...]
NO_TIMESTAMPS: list[Any] = ["x", "1704067200", "2024-01-01T00:00:00Z", 1704067200000, True, None, float("nan"), 10**400, ...]
NO_PENNKEYS: list[Any] = [5, False, [], NUL, LONG]
NO_DATA: list[Any] = [None, {}, "x", [5], [{"key": "a"}], [{"value": "a"}], ...]
NO_KEYS: list[Any] = [1, None, NUL, LONG]
NO_VALUES: list[Any] = [1, None, NUL, "x" * (VALUE_LENGTH_MAX + 1), "x" * 1_000_000]
REFUSED: dict[str, dict[str, Any]] = {
    **{f"product {value!r}": {"product": value} for value in NO_PRODUCTS},
    **{f"timestamp {value!r:.22}": {"timestamp": value} for value in NO_TIMESTAMPS},
    **{f"pennkey {value!r:.9}": {"pennkey": value} for value in NO_PENNKEYS},
    **{f"data {value!r}": {"data": value} for value in NO_DATA},
    **{f"key {value!r:.9}": {"data": [{"key": value, "value": "1"}]} for value in NO_KEYS},
    **{f"value {len(str(value))} {value!r:.9}": {"data": [{"key": "a", "value": value}]} for value in NO_VALUES},
    "too many datapoints": {"data": [{"key": "a", "value": "1"}] * (DATAPOINTS_MAX + 1)},
}
NO_TXNS = {
    "nothing": b"",
    "no JSON": b"product=3",
    "null": b"null",
    "a list": b"[]",
    "two documents": body_of() * 2,
    "half of one": body_of()[:-9],
    "no UTF-8": body_of().replace(b"judtin", b"\xff\xfe"),
    "lone surrogate": body_of().replace(b"judtin", b"\\ud800"),
    "lone surrogate in an extra key": body_of(more="x").replace(b'"x"', b'"\\ud800"'),
    "nested deeply": body_of(more="x").replace(b'"x"', b"[" * 100_000),
    "number of 5,000 digits": body_of().replace(b"1704067200", b"1" * 5_000),
    "infinity": body_of().replace(b"1704067200", b"1e999"),
}
BAD_BODIES = {**{name: body_of(**changes) for name, changes in REFUSED.items()}, **NO_TXNS}
