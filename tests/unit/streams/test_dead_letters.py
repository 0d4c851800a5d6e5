"""A dead letter gives back the record it was made of, byte for byte; a mark gives back both positions."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.changelog import dead_letter
from streams.dead_letters import COUNT_STAGE, Position, decode_mark, encode_mark, read_dead_letter
from streams.errors import Reason
from tables.fold import Refused
from tests.support.strategies import texts

some_bytes = st.none() | st.binary(max_size=50)
names = st.sampled_from(["reason", "detail", "topic", "partition", "offset", "stage", "trace"]) | texts
headers = st.lists(st.tuples(names, some_bytes), max_size=8)
positions = st.builds(Position, texts, st.integers(0, 999), st.integers(0, 2**63 - 1))


def a_record(key: bytes | None, value: bytes | None, own: Any, *, at_ms: int = 7) -> Any:
    return SimpleNamespace(offset=0, key=key, value=value, headers=own, timestamp=at_ms)


@given(some_bytes, some_bytes, headers, positions)
def test_reading_inverts_what_the_worker_writes(key: bytes | None, value: bytes | None, own: Any, source: Position) -> None:
    """Also where the producer uses the names of our headers: ours are the last six."""
    refused = Refused(source.offset, Reason.SCHEMA, "price: too large")
    written = dead_letter(source.topic, source.partition, refused, a_record(key, value, own))
    letter = read_dead_letter(a_record(written.key, written.value, list(written.headers)))
    assert letter is not None
    assert (letter.key, letter.value, list(letter.headers)) == (key, value, own)
    assert (letter.source, letter.reason, letter.detail) == (source, "schema", "price: too large")
    assert (letter.stage, letter.at_ms) == (COUNT_STAGE, 7)


@pytest.mark.parametrize(
    "own",
    [
        [],
        [("reason", b"x")],
        [("detail", b""), ("reason", b""), ("topic", b"t"), ("partition", b"1"), ("offset", b"1"), ("stage", b"count")],
        [("reason", b""), ("detail", b""), ("topic", b"t"), ("partition", b"-1"), ("offset", b"1"), ("stage", b"count")],
        [("reason", b""), ("detail", b""), ("topic", b"t"), ("partition", b"1"), ("offset", b"9" * 20), ("stage", b"count")],
        [("reason", b""), ("detail", b""), ("topic", b"t"), ("partition", b"1"), ("offset", None), ("stage", b"count")],
    ],
)
def test_what_somebody_else_wrote_is_no_dead_letter(own: Any) -> None:
    """Without a position it could be sent nowhere."""
    assert read_dead_letter(a_record(b"k", b"v", own)) is None


@given(positions, st.integers(0, 2**63 - 1))
def test_decoding_inverts_encoding_of_a_mark(source: Position, offset: int) -> None:
    """A replay stays in its topic and partition; slashes in a topic's name do no harm."""
    replayed = source._replace(offset=offset)
    assert decode_mark(*encode_mark(source, replayed)) == (source, replayed)


def test_the_key_of_a_mark_is_the_identity_alone() -> None:
    """Compaction keeps one mark a dead letter, whenever it was sent."""
    source = Position("user-tags.v1", 2, 17)
    assert encode_mark(source, source._replace(offset=40)) == (b"user-tags.v1/2/17", b'{"partition":2,"offset":40}')


@pytest.mark.parametrize(
    ("key", "value"), [(None, b"{}"), (b"a/b", b"{}"), (b"t/1/2", b"{}"), (b"t/1/2", None), (b"t/x/2", b"{}")]
)
def test_bytes_that_are_no_mark_are_refused(key: bytes | None, value: bytes | None) -> None:
    """Taken for nothing, a damaged mark would let an event be sent twice."""
    with pytest.raises(ValueError, match=r".+"):
        decode_mark(key, value)
