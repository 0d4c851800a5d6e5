"""Draw what is posted to the front doors of products: right, nearly right, damaged, and anything at all."""

from __future__ import annotations

from random import Random
from typing import Any

from hypothesis import strategies as st

from gateway.events_published import json_schemas
from streams.schemas import TEXT_LENGTH_MAX, VALUE_LENGTH_MAX
from tests.support.from_schema import anything, from_schema
from tests.support.strategies import short_texts

EVENT = json_schemas()["schemas"]["event"]
VALID = from_schema(EVENT, EVENT.get("$defs", {})).filter(lambda event: event.get("user_id") or event.get("anonymous_id"))
FIELDS = st.sampled_from([*EVENT["properties"], "more"])
NEAR = st.builds(lambda event, name, value: event | {name: value}, VALID, FIELDS, anything)
"""Events with one field replaced by anything."""

ABSENT = object()
right_texts = st.one_of(short_texts, st.just("🍪" * TEXT_LENGTH_MAX))
texts = st.one_of(right_texts, st.sampled_from(["\0", "\ud800", "x" * (TEXT_LENGTH_MAX + 1), "x" * (VALUE_LENGTH_MAX + 1)]))
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts)
junk = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=5)


def mostly(right: st.SearchStrategy[Any], *others: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Draw what is right twelve times in thirteen; otherwise something else, or nothing."""
    return st.integers(0, 12).flatmap(lambda one: right if one else st.one_of(junk, st.just(ABSENT), *others))


def without_absent(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not ABSENT}


datapoints = st.fixed_dictionaries({"key": mostly(right_texts, texts), "value": mostly(right_texts, texts)}).map(without_absent)
txns = st.fixed_dictionaries(
    {
        "product": mostly(st.integers(0, 10), st.integers(-1, 12)),
        "pennkey": mostly(st.none() | right_texts, texts),
        "timestamp": mostly(st.one_of(st.integers(-5, 2 * 10**9), st.floats(-5, 2e9)), st.floats(-1e11, 3e11)),
        "data": mostly(st.lists(datapoints | datapoints | datapoints | junk, max_size=3)),
    },
    optional={"more": junk},
).map(without_absent)


def damaged(raw: bytes, random: Random) -> bytes:
    """Return the bytes with a few of them changed, cut out or doubled."""
    body = bytearray(raw)
    for _ in range(random.randint(1, 4)):
        place, size = random.randrange(len(body) + 1), random.choice((0, 1, 1, 5))
        body[place : place + size] = random.choice(
            (b"", random.randbytes(1), b'"', b"{", b"]", b",", b"0", b"\\u0000", body[:9])
        )
    return bytes(body)
