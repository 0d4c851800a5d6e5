"""Build events and records: what a test does not care about is filled in."""

from __future__ import annotations

import json
from typing import Any


def a_user_tag(**overrides: Any) -> dict[str, Any]:
    """Return a valid event of `user-tags.v1` as the producer nests it; overrides name fields of either level."""
    product_info = {"product_id": 12486, "brand_id": "Ebros_Gift", "category_id": "Trousers", "price": 28969}
    tag: dict[str, Any] = {
        "time": "2022-03-01T00:00:00.649Z",
        "cookie": "9WkYGxkiXBfpMIjBGURC",
        "country": "CL",
        "device": "MOBILE",
        "action": "VIEW",
        "origin": "CAMPAIGN_321",
        "product_info": product_info,
    }
    for name, value in overrides.items():
        (product_info if name in product_info else tag)[name] = value
    return tag


def a_submission(*keys: str, **overrides: Any) -> dict[str, Any]:
    """Return a valid event of `events.v1`: a transaction with a datapoint for each of *keys*; overrides name fields."""
    submission: dict[str, Any] = {
        "kind": "TRANSACTION",
        "id": "d0c9e6a2-5d8f-4c39-8d5f-0b8a3f2d9b11",
        "product": "MOBILE_IOS",
        "user": "pennkey",
        "time": "2022-03-01T00:00:00.649Z",
        "source": "",
        "properties": "{}",
        "data": [{"key": key, "value": f"value of {key}"} for key in keys],
    }
    return submission | overrides


def record_bytes(event: Any) -> bytes:
    """Return the value of the record of an event: compact JSON, UTF-8."""
    return json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode()


def a_record(**overrides: Any) -> bytes:
    """Return the value of a record that holds `a_user_tag`."""
    return record_bytes(a_user_tag(**overrides))
