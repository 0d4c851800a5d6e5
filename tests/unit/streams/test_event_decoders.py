"""The fast decoders and the authority agree on every byte string of `events.v1`, short or long."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from pydantic import ValidationError

from streams.codecs import CAREFUL_BYTES_MAX, FAST_ERRORS, Codec
from streams.errors import InvalidEventError, Reason
from streams.schemas import DATAPOINTS_MAX, PROPERTIES_LENGTH_MAX, TEXT_LENGTH_MAX, VALUE_LENGTH_MAX, EventV1
from streams.topics import EVENTS, USER_TAGS
from tests.support.builders import a_submission, a_user_tag, record_bytes
from tests.support.strategies import (
    NESTED,
    NUMBERS,
    STRINGS,
    TIMES,
    damaged,
    framed,
    odd_unknown,
    randoms,
    spelled,
    submissions,
)

CODEC = Codec(EVENTS)
SPELLINGS = 10
HOSTILE = 30
MARK = "\ue000mark"


def verdict_of_pydantic(raw: bytes) -> dict[str, Any] | None:
    try:
        return EventV1.model_validate_json(raw).model_dump()
    except ValidationError:
        return None


def assert_one_verdict(raw: bytes) -> bool:
    """Assert that authority, decoder and run decoder say the same of a record; return whether it is valid."""
    expected = verdict_of_pydantic(raw)
    try:
        run: Any = CODEC.decode_run([raw], 5).events[0]
    except FAST_ERRORS:
        run = None
    if expected is None:
        assert run is None, raw
        with pytest.raises(InvalidEventError):
            CODEC.decode(raw)
        return False
    assert msgspec.to_builtins(CODEC.decode(raw)[0]) == expected, raw
    assert run is None or msgspec.to_builtins(run) == expected, raw
    return True


def replaced(event: dict[str, Any], random: Random, text: str) -> bytes:
    """Return the JSON of an event in which some value, whole lists and datapoints too, is replaced by any text."""
    marked = json.loads(json.dumps(event))
    places: list[tuple[Any, Any]] = [(marked, name) for name in marked]
    places += [(marked["data"], index) for index in range(len(marked["data"]))]
    places += [(member, name) for member in marked["data"] for name in member]
    holder, name = random.choice(places)
    holder[name] = MARK
    return json.dumps(marked, ensure_ascii=False).replace(f'"{MARK}"', text).encode()


def hostile(event: dict[str, Any], random: Random) -> bytes:
    depth = random.choice(NESTED)
    odd = random.choice(
        (random.choice(NUMBERS), random.choice(STRINGS), json.dumps(random.choice(TIMES)), "[]", "{}", "[null]")
    )
    nested = random.choice(("[" * depth + "]" * depth, '{"":' * depth + "1" + "}" * depth))
    return random.choice(
        (
            lambda: spelled(event, random),
            lambda: replaced(event, random, odd),
            lambda: replaced(event, random, nested),
            lambda: json.dumps(event)[:-1].encode() + f',"x":{nested}}}'.encode(),
            lambda: odd_unknown(event, random),
            lambda: damaged(event, random),
            lambda: framed(event, random),
        )
    )()


@given(submissions, randoms)
def test_every_spelling_of_a_valid_event_is_decoded_to_its_values(event: dict[str, Any], random: Random) -> None:
    """P3, issue 7.1: whoever writes the topic."""
    for _ in range(SPELLINGS):
        raw = spelled(event, random)
        assert assert_one_verdict(raw), raw
        assert msgspec.to_builtins(CODEC.decode(raw)[0]) == event, raw


@given(submissions, randoms)
def test_fast_decoders_and_authority_agree_on_hostile_bytes(event: dict[str, Any], random: Random) -> None:
    """A limit of the model that one of the decoders lacks would be two verdicts on one record, and so two counts."""
    for _ in range(HOSTILE):
        assert_one_verdict(hostile(event, random))


@pytest.mark.parametrize(
    ("event", "valid"),
    [
        (a_submission(*["k"] * DATAPOINTS_MAX), True),
        (a_submission(*["k"] * (DATAPOINTS_MAX + 1)), False),
        (a_submission(data=[{"key": "k" * TEXT_LENGTH_MAX, "value": "😀" * VALUE_LENGTH_MAX}]), True),
        (a_submission(data=[{"key": "k" * (TEXT_LENGTH_MAX + 1), "value": ""}]), False),
        (a_submission(data=[{"key": "", "value": "v" * (VALUE_LENGTH_MAX + 1)}]), False),
        (a_submission(properties="p" * PROPERTIES_LENGTH_MAX), True),
        (a_submission(properties="p" * (PROPERTIES_LENGTH_MAX + 1)), False),
        (a_submission(data=[{"key": "a\0", "value": ""}]), False),
        (a_submission(kind="PAGE"), False),
        (a_submission(data={"key": "k", "value": ""}), False),
        (a_submission(data=[{"key": "k"}]), False),
    ],
)
def test_limits_are_those_of_the_model(event: dict[str, Any], valid: bool) -> None:
    """`streams/schemas.py` is what producers read."""
    assert assert_one_verdict(record_bytes(event)) is valid


def test_long_record_takes_the_fast_way() -> None:
    """A transaction of 10,000 datapoints is megabytes: by way of the authority it would hold up the loop for long."""
    raw = record_bytes(a_submission(*["k" * 40] * 2_000))
    assert len(raw) > CAREFUL_BYTES_MAX
    assert CODEC.decode_run([raw, record_bytes(a_submission())], 0).at_ms[0] == CODEC.decode(raw)[1]


def test_record_has_the_streams_own_limit_of_bytes() -> None:
    """4 MB for submissions, 256 KiB for tags; what is larger is a dead letter, and no reason to stop."""
    padding = b" " * EVENTS.bytes_max
    raw = record_bytes(a_submission())
    assert CODEC.decode(raw[:-1] + padding[: EVENTS.bytes_max - len(raw)] + b"}")
    for codec, whole in ((CODEC, raw), (Codec(USER_TAGS), record_bytes(a_user_tag()))):
        too_long = whole[:-1] + padding[: codec.stream.bytes_max - len(whole) + 1] + b"}"
        with pytest.raises(InvalidEventError, match=f"at most {codec.stream.bytes_max}") as raised:
            codec.decode(too_long)
        assert raised.value.reason is Reason.TOO_LARGE


def test_refusal_names_the_place_inside_a_datapoint() -> None:
    """Its producer has to find it among 10,000."""
    bad = a_submission("a", "b")
    bad["data"][1]["value"] = 5
    with pytest.raises(InvalidEventError, match=r"data\.1\.value: "):
        CODEC.decode(record_bytes(bad))
