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


def record_bytes(event: Any) -> bytes:
    """Return the value of the record of an event: compact JSON, UTF-8."""
    return json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode()


def a_record(**overrides: Any) -> bytes:
    """Return the value of a record that holds `a_user_tag`."""
    return record_bytes(a_user_tag(**overrides))
