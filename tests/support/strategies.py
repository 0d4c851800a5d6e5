"""Generate events and hostile bytes for properties. Hypothesis draws and shrinks events; a drawn seed does the spelling.

Spelling JSON and damaging bytes is done by `random.Random(seed)`: a hundred times cheaper than drawing each choice, so that
thousands of cases take seconds, and the failing record itself is in the message.

`HYPOTHESIS_PROFILE=thorough` asks for many more examples than the default, `quick`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from random import Random
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from streams.schemas import INT32, INT64, TEXT_LENGTH_MAX, VALUE_LENGTH_MAX
from tests.support.builders import a_user_tag

SLOW_IS_FINE = (HealthCheck.too_slow, HealthCheck.data_too_large)
settings.register_profile("quick", max_examples=100, deadline=None, print_blob=True, suppress_health_check=SLOW_IS_FINE)
settings.register_profile("thorough", max_examples=1000, deadline=None, print_blob=True, suppress_health_check=SLOW_IS_FINE)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))

LAST_SECOND = 253_402_300_799
"""31 December 9999, 23:59:59 UTC."""
ODD_TEXTS = (
    "",
    " ",
    "null",
    "None",
    "a_b",
    "a|b",
    "a:b",
    "a/b",
    "%2F",
    '"',
    "\\",
    "\x7f",
    "\u2028",
    "\ufeff",
    "__faust",
    "é",
    "e\u0301",
)
LONGEST_TEXTS = ("x" * TEXT_LENGTH_MAX, "😀" * TEXT_LENGTH_MAX)

randoms: st.SearchStrategy[Random] = st.integers(0, 2**63).map(Random)
short_texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
texts = st.one_of(short_texts, st.sampled_from(ODD_TEXTS + LONGEST_TEXTS))
prices = st.one_of(st.integers(*INT32), st.sampled_from((0, -1, *INT32)))
product_ids = st.one_of(st.integers(*INT64), st.sampled_from(INT64), texts)


def instant_text(second: int, digits: str) -> str:
    """Return an event time: whole seconds since 1970, and the digits of the fraction, none for none."""
    return f"{datetime.fromtimestamp(second, UTC):%Y-%m-%dT%H:%M:%S}{'.' if digits else ''}{digits}Z"


instants = st.builds(instant_text, st.integers(0, LAST_SECOND), st.text("0123456789", max_size=9))

user_tags: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "time": instants,
        "cookie": texts,
        "country": texts,
        "device": st.sampled_from(("PC", "MOBILE", "TV")),
        "action": st.sampled_from(("VIEW", "BUY")),
        "origin": texts,
        "product_info": st.fixed_dictionaries(
            {"product_id": product_ids, "brand_id": texts, "category_id": texts, "price": prices}
        ),
    }
)

values = st.one_of(texts, st.sampled_from(("v" * VALUE_LENGTH_MAX, "{" * 300)))
submissions: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(("EVENT", "TRANSACTION")),
        "id": texts,
        "product": texts,
        "user": texts,
        "time": instants,
        "source": texts,
        "properties": st.sampled_from(("{}", '{"a":[1,{"b":null}]}', "", "{" * 500)),
        "data": st.lists(st.fixed_dictionaries({"key": texts, "value": values}), max_size=3),
    }
)


def spell(value: Any, random: Random) -> str:
    """Return one of the many JSON texts of a value: any order of keys, spaces, escapes, and fields nobody declared."""
    if isinstance(value, dict):
        items = [(spell(key, random), spell(item, random)) for key, item in value.items()]
        for _ in range(random.choice((0, 0, 0, 1, 2))):
            items.append((json.dumps(random.choice(("x", "", "Time", "价", "price2"))), unknown(random)))
        random.shuffle(items)
        return "{" + ",".join(f"{space(random)}{key}{space(random)}:{space(random)}{item}" for key, item in items) + "}"
    if isinstance(value, list):
        return "[" + ",".join(f"{space(random)}{spell(item, random)}{space(random)}" for item in value) + "]"
    if not isinstance(value, str):
        return json.dumps(value)
    return json.dumps(value, ensure_ascii=random.random() < 0.3)


def space(random: Random) -> str:
    """Return JSON's white space, mostly none."""
    return random.choice(("", "", "", "", " ", "\n", "\t ", "\r\n"))


def unknown(random: Random) -> str:
    """Return the JSON of a field that nobody declared: any type, sometimes nested or long."""
    depth = random.choice((1, 3, 40, 60))
    return random.choice(
        (
            "null",
            "true",
            "-0",
            "1e3",
            "123456789012345678901234567890",
            '"\\ud83d\\ude00 \\/ \\b"',
            '"' + "y" * random.choice((1, 300, 5000)) + '"',
            '{"cookie":1,"a":[{},[],""]}',
            "[" * depth + "]" * depth,
            '{"":' * depth + "0" + "}" * depth,
        )
    )


def spelled(tag: dict[str, Any], random: Random) -> bytes:
    """Return the bytes of a valid record of a tag, with white space around it."""
    return f"{space(random)}{spell(tag, random)}{space(random)}".encode()


TOKENS: tuple[bytes, ...] = (
    b'"',
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b" ",
    b"\n",
    b"0",
    b"-",
    b"e",
    b".",
    b"\0",
    b"\x1f",
    b"\x7f",
    b"\xff",
)
TOKENS += (
    b"\xc3",
    b"\xed\xa0\x80",
    b"\xef\xbb\xbf",
    b"\\u",
    b"\\u0000",
    b"\\ud800",
    b"\\q",
    b"null",
    b"1e5",
    b"NaN",
    b'"x":',
    b"/*",
)
NUMBERS: tuple[str, ...] = (
    "1.0",
    "5e0",
    "1e2",
    "-0",
    "-0.0",
    "01",
    "+1",
    "0x1",
    "1.",
    ".5",
    "1e400",
    "-1e400",
    "NaN",
    "Infinity",
    "-Infinity",
)
NUMBERS += ("9" * 19, "9" * 400, "9" * 4300, "9" * 4301, "9" * 20000, f"0.{'1' * 5000}", "2147483648", "-2147483649")
NUMBERS += ("9223372036854775808", "-9223372036854775809", "true", "null", '"5"', "[5]", "{}")
STRINGS: tuple[str, ...] = (
    '"\\u0000"',
    '"\\ud800"',
    '"\\udfff\\ud800"',
    '"\\ud83d"',
    '"\\u12G4"',
    '"\\q"',
    '"a\nb"',
    '"\t"',
    "1",
    "null",
    "[]",
    "{}",
    '"',
)
STRINGS += (json.dumps("y" * 513), json.dumps("😀" * 513), json.dumps("z" * 5000), json.dumps("é" * 512), '"\\u00e9\\/"')
TIMES: tuple[str, ...] = (
    "2022-03-01T00:00:00",
    "2022-03-01T00:00:00z",
    "2022-03-01t00:00:00Z",
    "2022-03-01 00:00:00Z",
    "2022-03-01T00:00:00+14:00",
)
TIMES += (
    "2022-03-01T00:00:00+00:00",
    "2022-02-30T00:00:00Z",
    "2023-02-29T00:00:00Z",
    "2024-02-29T00:00:00Z",
    "2016-12-31T23:59:60Z",
)
TIMES += ("0000-01-01T00:00:00Z", "1969-12-31T23:59:59.999Z", "1970-01-01T00:00:00Z", "9999-12-31T23:59:59.999999999Z")
TIMES += (
    "10000-01-01T00:00:00Z",
    "2022-03-01T24:00:00Z",
    "2022-03-01T00:00:00.Z",
    "2022-03-01T00:00:00.1234567890Z",
    "",
    "Z",
    "now",
)
TIMES += (
    "2022-03-01T00:00:00.1234567Z",
    "2022-03-01T00:00:00,5Z",
    "２０２２-03-01T00:00:00Z",
    "2022-03-01T00:00:0٠Z",
    "2022-03-01T00:00Z",
)
TIMES += (
    "2022-03-01T00:00:00Z\n",
    " 2022-03-01T00:00:00Z",
    "2022-13-01T00:00:00Z",
    "2022-00-01T00:00:00Z",
    "-022-03-01T00:00:00Z",
)
NESTED = (50, 100, 101, 150, 190, 199, 200, 201, 1000, 5000)


def with_field(tag: dict[str, Any], name: str, text: str) -> str:
    """Return the JSON of a tag in which the value of a field is replaced by any text."""
    mark = "\ue000mark"
    placed = a_user_tag(
        **{**{key: value for key, value in tag.items() if key != "product_info"}, **tag["product_info"], name: mark}
    )
    return json.dumps(placed, ensure_ascii=False).replace(f'"{mark}"', text)


def odd_number(tag: dict[str, Any], random: Random) -> bytes:
    return with_field(tag, random.choice(("price", "product_id", "cookie")), random.choice(NUMBERS)).encode()


def odd_string(tag: dict[str, Any], random: Random) -> bytes:
    name = random.choice(("cookie", "country", "device", "action", "origin", "product_id", "brand_id", "category_id", "time"))
    return with_field(tag, name, random.choice(STRINGS)).encode()


def odd_time(tag: dict[str, Any], random: Random) -> bytes:
    return with_field(tag, "time", json.dumps(random.choice(TIMES), ensure_ascii=random.random() < 0.2)).encode()


def odd_unknown(tag: dict[str, Any], random: Random) -> bytes:
    text = json.dumps(tag)[:-1] + ',"x":' + random.choice(NUMBERS + STRINGS) + random.choice(("}", "}", "}}", ""))
    return text.encode()


def nested(tag: dict[str, Any], random: Random) -> bytes:
    depth = random.choice(NESTED)
    opening, closing = random.choice((("[", "]"), ('{"a":', "}"), ('[{"":', "}]")))
    text = opening * depth + "1" + closing * random.choice((depth, depth - 1))
    return (
        with_field(tag, random.choice(("product_info", "cookie", "price")), text).encode()
        if random.random() < 0.3
        else (json.dumps(tag)[:-1] + f',"x":{text}}}').encode()
    )


def duplicate(tag: dict[str, Any], random: Random) -> bytes:
    name, text = random.choice(
        (("cookie", '"q"'), ("cookie", "5"), ("price", "1"), ("time", '"x"'), ("action", '"BUY"'), ("product_info", "{}"))
    )
    pair = f'"{name}":{text}'
    spelled_tag = json.dumps(tag)
    return random.choice((f"{{{pair},{spelled_tag[1:]}", f"{spelled_tag[:-1]},{pair}}}")).encode()


def damaged(tag: dict[str, Any], random: Random) -> bytes:
    raw = bytearray(spelled(tag, random) if random.random() < 0.5 else json.dumps(tag).encode())
    for _ in range(random.randint(1, 3)):
        at, kind = random.randrange(len(raw) + 1), random.random()
        if kind < 0.4:
            raw[at:at] = random.choice(TOKENS)
        elif kind < 0.7:
            del raw[at : at + random.randint(1, 3)]
        else:
            raw[at : at + 1] = bytes((random.randrange(256),))
    return bytes(raw)


def framed(tag: dict[str, Any], random: Random) -> bytes:
    raw = json.dumps(tag).encode()
    return random.choice(
        (b"\xef\xbb\xbf" + raw, raw + b"x", raw + raw, raw + b"\0", b"[" + raw + b"]", raw[:-1], b"null", b"", b" ")
    )


def whole(tag: dict[str, Any], random: Random) -> bytes:
    return spelled(tag, random)


SURGERIES: tuple[Callable[[dict[str, Any], Random], bytes], ...] = (
    whole,
    odd_number,
    odd_string,
    odd_time,
    odd_unknown,
    nested,
    duplicate,
    damaged,
    damaged,
    framed,
)


def hostile(tag: dict[str, Any], random: Random) -> bytes:
    """Return the bytes of a record that may or may not be valid: what a foreign producer might write."""
    return random.choice(SURGERIES)(tag, random)
