"""What the tables take for granted of every declared stream holds for every one."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin

import annotated_types
import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from streams.codecs import Codec
from streams.schemas import INT32, check_text
from streams.topics import STREAMS, Stream, changelog_of
from tables.fold import Fold

each_stream = pytest.mark.parametrize("stream", STREAMS, ids=lambda stream: stream.topic)


def field_at(model: type[BaseModel], path: str) -> FieldInfo:
    """Return the declaration of the field at a dotted path."""
    name, _, rest = path.partition(".")
    field = model.model_fields[name]
    if not rest:
        return field
    inner: Any = get_args(field.annotation)[0] if get_origin(field.annotation) is list else field.annotation
    assert isinstance(inner, type) and issubclass(inner, BaseModel)
    return field_at(inner, rest)


def limits_of(field: FieldInfo) -> tuple[Any, Any]:
    ge = next(item.ge for item in field.metadata if isinstance(item, annotated_types.Ge))
    le = next(item.le for item in field.metadata if isinstance(item, annotated_types.Le))
    return ge, le


@each_stream
def test_each_path_names_a_field_of_the_schema(stream: Stream) -> None:
    """A typing error in a declaration shows here and not at the first event."""
    Codec(stream)
    for path in (stream.key, stream.time, stream.kind, *stream.dimensions.values(), *stream.sums.values(), *stream.kept):
        field_at(stream.schema, path)


@each_stream
def test_only_members_are_looked_into_one_by_one(stream: Stream) -> None:
    """A list elsewhere in a path has no one value: `attrgetter` would fail at the first event."""
    outside = [path for path in stream.dimensions.values() if not (stream.members and path.startswith(f"{stream.members}."))]
    for path in (stream.key, stream.time, stream.kind, *outside, *stream.sums.values(), *stream.kept):
        parents = path.split(".")[:-1]
        for end in range(1, len(parents) + 1):
            assert get_origin(field_at(stream.schema, ".".join(parents[:end])).annotation) is not list, path
    Fold(Codec(stream), None)


@each_stream
def test_stream_with_ids_says_for_how_long_they_count(stream: Stream) -> None:
    """Issue 7.1: 48 hours, and the rows that tell are kept for a lag of a day longer; NUL ends the user in the index too."""
    if stream.id:
        assert stream.duplicates_within_s > 0
        assert stream.rows_horizon_s(3_600) >= stream.duplicates_within_s + 86_400
        checks = [getattr(item, "func", None) for item in field_at(stream.schema, stream.id).metadata]
        assert check_text in checks
    else:
        assert stream.duplicates_within_s == 0


@each_stream
def test_sums_are_integers_of_32_bits(stream: Stream) -> None:
    """A7 point 18: 4,096 of them fit a lane of 48 bits; of larger ones a sum would run into its neighbour."""
    for path in stream.sums.values():
        field = field_at(stream.schema, path)
        low, high = limits_of(field)
        assert field.annotation is int
        assert low >= INT32[0]
        assert high <= INT32[1]


@each_stream
def test_kinds_are_all_values_of_their_field_each_with_one_byte(stream: Stream) -> None:
    """A byte that stands for two kinds, or is NUL, would mix the profiles of two users; "o" would be Faust's own offset key."""
    field = field_at(stream.schema, stream.kind)
    assert get_origin(field.annotation) is Literal
    assert set(stream.kinds) == set(get_args(field.annotation))
    codes = list(stream.kinds.values())
    assert len(set(codes)) == len(codes)
    assert all(len(code) == 1 and code not in (b"\0", b"o") for code in codes)


@each_stream
def test_user_holds_no_nul(stream: Stream) -> None:
    """A7 point 23: NUL ends the user in a row's key."""
    checks = [getattr(item, "func", None) for item in field_at(stream.schema, stream.key).metadata]
    assert check_text in checks


def test_streams_share_no_topic_and_no_table() -> None:
    """Two streams in one table would overwrite each other's blocks."""
    names = [name for stream in STREAMS for name in (stream.topic, *stream.tables, stream.cells_sql, stream.events_sql)]
    assert len(set(names)) == len(names)
    assert changelog_of("minute-blocks") == "tally-minute-blocks-changelog"
