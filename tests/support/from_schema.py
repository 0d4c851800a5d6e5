"""Draw values from a JSON Schema, as far as Tally's schemas go: what they allow, and what is near it."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

UUID_PATTERN = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
TEXT_DRAWN_MAX = 40
"""Longer texts are drawn seldom, and as repetitions: a draw is only so large."""
ENTRIES_DRAWN_MAX = 4
NEAR_S = 1_795_300_000
"""In November 2026."""
LAST_S = 253_402_128_000
"""The day before the last one of the year 9999."""

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=8
)
"""Values of JSON, and of Python's idea of it: NaN, lone surrogates and NUL among them."""


def from_schema(schema: dict[str, Any], definitions: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Return what a schema allows; *definitions* are its `$defs`."""
    if "$ref" in schema:
        return from_schema(definitions[schema["$ref"].rsplit("/", 1)[1]], definitions)
    if "properties" not in schema and "anyOf" in schema:
        return st.one_of(*(from_schema(each, definitions) for each in schema["anyOf"]))
    kinds = {"string": _texts, "object": _objects, "array": _arrays}
    kind = schema.get("type")
    if kind == "null":
        return st.none()
    return kinds[kind](schema, definitions) if kind in kinds else plain_values()


def plain_values() -> st.SearchStrategy[Any]:
    """Values that every JSON can hold."""
    numbers = st.integers(-(2**63), 2**64) | st.floats(allow_nan=False, allow_infinity=False)
    leaves = st.one_of(st.none(), st.booleans(), numbers, plain_texts(TEXT_DRAWN_MAX))
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(plain_texts(8), inner, max_size=3),
        max_leaves=6,
    ).filter(lambda value: _depth(value) < 8)


def plain_texts(most: int, least: int = 0) -> st.SearchStrategy[str]:
    """Texts without NUL and surrogates."""
    alphabet = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
    return st.text(alphabet, min_size=least, max_size=most)


def _depth(value: Any) -> int:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if parts is None else 1 + max(map(_depth, parts), default=0)


def _texts(schema: dict[str, Any], definitions: dict[str, Any]) -> st.SearchStrategy[str]:
    if schema.get("format") == "uuid":
        return st.uuids().map(str) | st.uuids().map(lambda each: str(each).upper())
    if schema.get("format") == "date-time":
        return moments()
    least, most = schema.get("minLength", 0), schema.get("maxLength", TEXT_DRAWN_MAX)
    short = plain_texts(min(most, TEXT_DRAWN_MAX), least)
    return short | st.just("x" * most) | st.just("🍪" * most)


def moments() -> st.SearchStrategy[str]:
    """Times with an offset, around a day of 2026 or anywhere."""
    near, anywhere = (st.integers(first, last).map(_at) for first, last in ((NEAR_S, NEAR_S + 200_000), (86_400, LAST_S)))
    offsets = st.integers(-14 * 60, 14 * 60)
    return st.builds(_moment, near | anywhere, offsets, st.sampled_from(["", ".5", ".123", ".123456789"]))


def _at(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _moment(at: datetime, offset_minutes: int, fraction: str) -> str:
    if not offset_minutes:
        return f"{at:%Y-%m-%dT%H:%M:%S}{fraction}Z"
    sign = "+" if offset_minutes > 0 else "-"
    local = at + timedelta(minutes=offset_minutes)
    hours, minutes = divmod(abs(offset_minutes), 60)
    return f"{local:%Y-%m-%dT%H:%M:%S}{fraction}{sign}{hours:02d}:{minutes:02d}"


def _objects(schema: dict[str, Any], definitions: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    if "properties" not in schema:
        keys = plain_texts(schema.get("propertyNames", {}).get("maxLength", TEXT_DRAWN_MAX) // 4)
        values = from_schema(schema.get("additionalProperties") or {}, definitions)
        return st.dictionaries(keys, values, max_size=min(ENTRIES_DRAWN_MAX, schema.get("maxProperties", ENTRIES_DRAWN_MAX)))
    fields = {name: from_schema(each, definitions) for name, each in schema["properties"].items()}
    required = schema.get("required", [])
    alternatives = [each["required"] for each in schema.get("anyOf", [{"required": []}])]
    return st.one_of(*(_fields(fields, {*required, *more}) for more in alternatives))


def _fields(fields: dict[str, st.SearchStrategy[Any]], required: set[str]) -> st.SearchStrategy[dict[str, Any]]:
    present = {name: each for name, each in fields.items() if name in required}
    return st.fixed_dictionaries(present, optional={name: each for name, each in fields.items() if name not in required})


def _arrays(schema: dict[str, Any], definitions: dict[str, Any]) -> st.SearchStrategy[list[Any]]:
    items = from_schema(schema["items"], definitions)
    return st.lists(items, min_size=schema.get("minItems", 0), max_size=min(ENTRIES_DRAWN_MAX, schema["maxItems"]))
