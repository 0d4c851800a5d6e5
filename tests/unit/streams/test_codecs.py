"""The fast decoder and the authority, pydantic, agree on every byte string; each refusal has its reason code."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from random import Random
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AfterValidator, Field, ValidationError, field_validator

from streams.codecs import FAST_ERRORS, PLAIN_BYTES_MAX, Codec, is_canonical
from streams.errors import InvalidEventError, Reason
from streams.schemas import EventSchema, Instant, Text, UserTagV1
from streams.topics import EVENT_BYTES_MAX, USER_TAGS, Stream
from tables.blocks import Cells
from tables.fold import Fold
from tables.profiles import RowCodec
from tests.support.builders import a_record, a_user_tag, record_bytes
from tests.support.strategies import NUMBERS, STRINGS, TIMES, hostile, randoms, spelled, user_tags, with_field

CODEC = Codec(USER_TAGS)
FOLD = Fold(CODEC, RowCodec(USER_TAGS))
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SPELLINGS = 20
"""Records made of one drawn event: with 100 examples, 2,000 spellings and 3,000 hostile records."""
HOSTILE = 30


def time_ms(text: str) -> int:
    """Return the milliseconds of an event time, by another way than the code under test."""
    whole, _, digits = text.removesuffix("Z").partition(".")
    whole_ms = (datetime.fromisoformat(whole + "+00:00") - EPOCH) // timedelta(milliseconds=1)
    return whole_ms + int(f"{digits}000"[:3])


def verdict_of_pydantic(raw: bytes) -> dict[str, Any] | None:
    try:
        return UserTagV1.model_validate_json(raw).model_dump()
    except ValidationError:
        return None


def assert_one_verdict(raw: bytes) -> bool:
    """Assert that authority, decoder and fold say the same of a record; return whether it is valid."""
    expected = verdict_of_pydantic(raw)
    minutes: dict[int, Cells] = {}
    rows: list[bytes] = []
    refused = FOLD.fold([raw], 5, minutes, rows)
    if expected is None:
        with pytest.raises(InvalidEventError) as raised:
            CODEC.decode(raw)
        assert [(5, raised.value.reason, raised.value.detail)] == refused, raw
        assert not minutes and not rows, raw
        return False
    event, at_ms = CODEC.decode(raw)
    assert msgspec.to_builtins(event) == expected, raw
    assert at_ms == time_ms(expected["time"]), raw
    assert type(event.product_info.product_id) is type(expected["product_info"]["product_id"]), raw
    assert not refused and list(minutes) == [at_ms // 60_000], raw
    assert RowCodec(USER_TAGS).decode(*rows).at_ms == at_ms, raw
    return True


@given(user_tags, randoms)
def test_every_spelling_of_a_valid_event_is_decoded_to_its_values(tag: dict[str, Any], random: Random) -> None:
    """A1, A7 points 1, 2, 17, 22, 25: producers differ in key order, spaces, escapes and extra fields; the event does not."""
    for _ in range(SPELLINGS):
        raw = spelled(tag, random)
        assert assert_one_verdict(raw), raw
        assert msgspec.to_builtins(CODEC.decode(raw)[0]) == tag, raw


def torn(tags: list[dict[str, Any]], random: Random) -> list[bytes]:
    """Return records of which some are pieces of one document, and some two documents, with line breaks here and there."""
    records = [spelled(random.choice(tags), random) for _ in range(random.randint(1, 4))]
    for _ in range(random.randint(1, 4)):
        at = random.randrange(len(records))
        record = records[at]
        if random.random() < 0.5:
            cut = random.choice([random.randrange(len(record) + 1), record.find(b"}") + 1, record.find(b"{", 1)])
            records[at : at + 1] = [record[:cut], record[cut:]]
        else:
            records[at : at + 2] = [random.choice([b"", b"\n", b" ", b","]).join(records[at : at + 2])]
    return records


@given(st.lists(user_tags, min_size=1, max_size=3), randoms)
def test_run_is_decoded_as_each_record_alone_or_not_at_all(tags: list[dict[str, Any]], random: Random) -> None:
    """A1: records are decoded as lines of one text; one that runs on in the next would move every offset behind it."""
    records = torn(tags, random)
    try:
        decoded = CODEC.decode_run(records, 7)
    except FAST_ERRORS:
        return
    assert list(decoded.offsets) == [7 + index for index in range(len(records))]
    events = map(msgspec.to_builtins, decoded.events)
    alone = [(msgspec.to_builtins(event), at_ms) for event, at_ms in map(CODEC.decode, records)]
    assert list(zip(events, decoded.at_ms, strict=True)) == alone


def test_documents_over_two_records_do_not_make_up_for_two_in_one() -> None:
    """A1: their number alone says nothing."""
    whole = a_record(cookie="", country="", origin="", device="PC", time="2022-03-01T00:00:00Z")
    assert 2 * len(whole) < PLAIN_BYTES_MAX
    before_comma = [b'{"x":{}', b"," + whole[1:]]
    before_object = [b'{"x":', b"{}," + whole[1:]]
    for pieces in (before_comma, before_object, [whole, b" "], [whole, b""], []):
        assert not pieces or CODEC.decode(b"".join(pieces))
        for two in (whole + whole, whole + b"\n" + whole):
            with pytest.raises(FAST_ERRORS):
                CODEC.decode_run([*pieces, two], 0)


def test_line_break_inside_a_record_is_white_space() -> None:
    """A1: as it is for everybody else who reads JSON."""
    record = a_record().replace(b",", b",\n", 1)
    assert CODEC.decode_run([record, a_record()], 0).events == [CODEC.decode(a_record())[0]] * 2


def test_run_of_plain_records_takes_the_fast_way() -> None:
    """Speed: one that never does would still be right, and nobody would see it."""
    assert CODEC.decode_run([a_record(), a_record(price=-1, origin="Łódź")], 0).at_ms == [CODEC.decode(a_record())[1]] * 2


@given(user_tags, randoms)
def test_fast_decoder_and_authority_agree_on_hostile_bytes(tag: dict[str, Any], random: Random) -> None:
    """A1, A7 points 23, 24: anybody may write the topic; two verdicts on one record would be two counts."""
    for _ in range(HOSTILE):
        assert_one_verdict(hostile(tag, random))


@pytest.mark.parametrize("name", ["price", "product_id", "cookie", "x"])
def test_every_odd_number_in_every_kind_of_field_has_one_verdict(name: str) -> None:
    """A7 points 17, 24: numbers are where JSON parsers differ most."""
    for number in NUMBERS:
        assert_one_verdict(with_field(a_user_tag(), name, number).encode())


@pytest.mark.parametrize("name", ["cookie", "device", "product_id", "time", "x"])
def test_every_odd_string_in_every_kind_of_field_has_one_verdict(name: str) -> None:
    """A7 points 23, 25."""
    for text in STRINGS:
        assert_one_verdict(with_field(a_user_tag(), name, text).encode())


def test_every_odd_time_has_one_verdict() -> None:
    """A1, A7 point 1."""
    for text in TIMES:
        assert_one_verdict(a_record(time=text))


@pytest.mark.parametrize("depth", [99, 100, 101, 190, 199, 200, 201, 202, 5000, 60_000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"":', "}")])
def test_deep_nesting_has_one_verdict_and_no_crash(depth: int, opening: str, closing: str) -> None:
    """Parsers give up at different depths, and a recursive one would end the process."""
    raw = record_bytes(a_user_tag())[:-1] + f',"x":{opening * depth}1{closing * depth}}}'.encode()
    assert_one_verdict(raw)


@pytest.mark.parametrize(
    "place", [b'"x":"%s"', b'"%s":1', b'"x":{"a":"%s"}', b'"cookie":"%s"'], ids=["value", "key", "nested", "known"]
)
@pytest.mark.parametrize("padding", [b"", b" " * 500, b" " * 5000], ids=["short", "middling", "long"])
def test_bad_utf8_is_refused_wherever_it_stands(place: bytes, padding: bytes) -> None:
    """A7 point 23: msgspec skips unknown fields without looking at their UTF-8."""
    for bad in (b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80"):
        assert not assert_one_verdict(a_record()[:-1] + b"," + place.replace(b"%s", bad) + padding + b"}")


REFUSALS: list[tuple[bytes | None, Reason, str]] = [
    (None, Reason.EMPTY, "no value"),
    (b"", Reason.EMPTY, "no value"),
    (a_record()[:-1] + b" " * EVENT_BYTES_MAX + b"}", Reason.TOO_LARGE, f"at most {EVENT_BYTES_MAX}"),
    (b"hello", Reason.NOT_JSON, "invalid JSON"),
    (b"\xef\xbb\xbf" + a_record(), Reason.NOT_JSON, "invalid JSON"),
    (a_record() + b"x", Reason.NOT_JSON, "trailing"),
    (a_record()[:-1] + b',"x":"\xff"}', Reason.NOT_JSON, "unicode"),
    (b"[]", Reason.SCHEMA, "object"),
    (b"{}", Reason.SCHEMA, "time: field required"),
    (a_record(price=1.5), Reason.SCHEMA, "product_info.price"),
    (a_record(price="5"), Reason.SCHEMA, "product_info.price"),
    (a_record(price=2**31), Reason.SCHEMA, "product_info.price"),
    (a_record(price=-(2**31) - 1), Reason.SCHEMA, "product_info.price"),
    (a_record(price=None), Reason.SCHEMA, "product_info.price"),
    (a_record(price=True), Reason.SCHEMA, "product_info.price"),
    (a_record(product_id=2**63), Reason.SCHEMA, "product_info.product_id"),
    (a_record(product_id=True), Reason.SCHEMA, "product_info.product_id"),
    (a_record(device="pc"), Reason.SCHEMA, "device"),
    (a_record(action="LOOK"), Reason.SCHEMA, "action"),
    (a_record(cookie=1), Reason.SCHEMA, "cookie"),
    (a_record(cookie="x" * 513), Reason.SCHEMA, "at most 512"),
    (a_record(time="2022-03-01T00:00:00"), Reason.TIME, "time"),
    (a_record(time="2022-02-30T00:00:00Z"), Reason.TIME, "time"),
    (a_record(time="1969-12-31T23:59:59Z"), Reason.TIME, "before 1970"),
    (a_record(cookie="a\0b").replace(b"\0", b"\\u0000"), Reason.TEXT, "NUL"),
    (with_field(a_user_tag(), "origin", '"\\ud800"').encode(), Reason.TEXT, ""),
    (with_field(a_user_tag(), "origin", '"\\ud800\\u0041"').encode(), Reason.TEXT, ""),
]


@pytest.mark.parametrize(("raw", "reason", "words"), REFUSALS)
def test_refused_record_has_its_reason_code_and_place(raw: bytes | None, reason: Reason, words: str) -> None:
    """A1, A7 points 23, 24: the dead letter must tell its producer what to mend."""
    with pytest.raises(InvalidEventError) as raised:
        CODEC.decode(raw)
    assert raised.value.reason is reason, raised.value.detail
    assert words.lower() in raised.value.detail.lower()


@pytest.mark.parametrize("name", [*a_user_tag(), *a_user_tag()["product_info"]])
def test_missing_field_is_named(name: str) -> None:
    """A1."""
    tag = a_user_tag()
    (tag if name in tag else tag["product_info"]).pop(name)
    with pytest.raises(InvalidEventError, match=f"{name}: field required"):
        CODEC.decode(record_bytes(tag))


def test_detail_holds_no_payload() -> None:
    """Details go to logs and to people who may not see what users did."""
    for raw in (
        a_record(cookie=["secret"]),
        a_record(device="secret"),
        a_record(time="secret"),
        b'{"secret',
        a_record(price="secret"),
    ):
        with pytest.raises(InvalidEventError) as raised:
            CODEC.decode(raw)
        assert "secret" not in str(raised.value)


def test_last_of_duplicate_keys_wins() -> None:
    """A7 point 24: as JSON parsers do."""
    raw = a_record(price=7)[:-1] + b',"cookie":"first","cookie":"last"}'
    assert CODEC.decode(raw)[0].cookie == "last"


def test_price_of_every_int32_and_product_id_of_both_types_are_kept() -> None:
    """A7 points 1, 17."""
    for price in (-(2**31), -1, 0, 2**31 - 1):
        assert CODEC.decode(a_record(price=price))[0].product_info.price == price
    for product_id in (12486, "12486", -(2**63), 2**63 - 1, ""):
        event, _ = CODEC.decode(a_record(product_id=product_id))
        assert event.product_info.product_id == product_id
        assert type(event.product_info.product_id) is type(product_id)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [("2022-03-01T00:00:01.000Z", True), ("2022-03-01T00:00:01Z", False), ("2022-03-01T00:00:01.0000Z", False)],
)
def test_canonical_time_is_the_one_with_three_digits(text: str, canonical: bool) -> None:
    """A7 point 2: rows leave out the text of a time that its milliseconds give back."""
    assert is_canonical(text) is canonical


class WithPattern(EventSchema):
    time: Instant
    user: Annotated[str, Field(strict=True, pattern="^a")]


class WithOwnCheck(EventSchema):
    time: Instant
    user: Annotated[str, AfterValidator(str.strip)]


class WithValidator(EventSchema):
    time: Instant
    user: Text

    @field_validator("user")
    @classmethod
    def check(cls, value: str) -> str:
        return value


class WithAlias(EventSchema):
    time: Instant
    user: Text = Field(alias="cookie")


class WithSecondInstant(EventSchema):
    time: Instant
    user: Instant


class WithFloat(EventSchema):
    time: Instant
    user: float


@pytest.mark.parametrize("schema", [WithPattern, WithOwnCheck, WithValidator, WithAlias, WithSecondInstant, WithFloat])
def test_schema_that_checks_more_than_the_fast_decoder_is_refused(schema: type[EventSchema]) -> None:
    """A limit that the struct cannot hold would be skipped on the fast path without a word."""
    stream = Stream(
        topic="t", schema=schema, key="user", time="time", kind="user", kinds={}, dimensions={}, sums={}, kept=(),
        blocks_table="b", rows_table="r", cells_sql="c", events_sql="e", user_sql="u",
    )  # fmt: skip
    with pytest.raises(TypeError, match=r"user|WithValidator|float"):
        Codec(stream)
