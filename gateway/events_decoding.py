"""Turn bodies into events, columns of many at once: msgspec for those that are plainly right, pydantic for the doubtful.

As in `streams.codecs`: the pydantic model decides, and the fast decoder takes only what pydantic takes, with equal values.
What it does not take may be right all the same: it counts characters where the rule counts bytes, so it asks for less wherever
a character may have more than one byte.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import add, attrgetter, itemgetter
from typing import Annotated, Any, NamedTuple, Union

import msgspec

from gateway.events_schema import (
    DEPTH_MAX,
    EVENTS_MAX,
    KEY_BYTES_MAX,
    PROPERTIES_MAX,
    VALUE_BYTES_MAX,
    Code,
    RefusedEventError,
    parse_moment,
    read_event,
    unknown_fields,
    utc_text,
)
from streams.codecs import is_text_safe
from streams.event_time import FRACTIONS, SECOND_TEXT_LENGTH, SECONDS, format_instant
from streams.schemas import INT64, TEXT_LENGTH_MAX
from streams.topics import EVENT_BYTES_MAX

CHARACTER_BYTES_MAX = 4
UUID_LENGTH = 36
DASHES = (8, 13, 18, 23)
LOWER_HEX = b"0123456789abcdef"
LINE_BREAK = b"\n"
FAST_ERRORS = (msgspec.DecodeError, ValueError, IndexError, RecursionError, TypeError)
OPENING, CLOSING = b"{}"
_FIRST, _LAST = itemgetter(0), itemgetter(-1)
_SECOND, _FRACTION = itemgetter(slice(SECOND_TEXT_LENGTH)), itemgetter(slice(SECOND_TEXT_LENGTH, None))
_TIME, _ID = attrgetter("time"), attrgetter("id")
_NAME_OF = re.compile(r"[^\0-\x1f\x7f]{1,200}")


class BodyError(Exception):
    """A whole body cannot be read, or holds too much.

    Attributes:
        status: 400, 408, 413, 415, 422 or 503.
        code: for programs.
        message: for people.
        closes: the connection has to, because the body was not read to its end.
    """

    def __init__(self, status: int, code: str, message: str, *, closes: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.closes = closes


class Refused(NamedTuple):
    """One event of a body that is refused for good.

    Attributes:
        position: in the body, from 0.
        name: the id it was sent with; its position in brackets where it has none.
        raw: as it came.
    """

    position: int
    name: str
    code: Code
    detail: str
    raw: bytes


class Warned(NamedTuple):
    """Why an event is not kept just as it came."""

    code: Code
    detail: str


@dataclass(slots=True)
class Columns:
    """Events, one entry an event in each list.

    Attributes:
        positions: in the body.
        raws: as they came; empty where the body was decoded at once.
        events: with the fields of `ProducerEventV1`; `schema` without underscore.
        ids: in lower case, as they are kept.
        users: who did it.
        times: in UTC, as they are kept.
        at_ms: the same in milliseconds since 1970.
        warnings: by position.
        given_times: of events whose time was not kept, as it came, by position.
    """

    positions: Sequence[int]
    raws: Sequence[bytes]
    events: list[Any]
    ids: list[str]
    users: list[str]
    times: list[str]
    at_ms: list[int]
    warnings: dict[int, Warned] = field(default_factory=dict)
    given_times: dict[int, str] = field(default_factory=dict)

    def one(self, index: int) -> Columns:
        """Return one of the events, without what was noted of it."""
        every = (self.positions, self.raws, self.events, self.ids, self.users, self.times, self.at_ms)
        return Columns(*([column[index]] for column in every))  # type: ignore[arg-type] # in the order of the fields


class Bounds(NamedTuple):
    """How far from its arrival an event's time may lie, milliseconds; 0: as far as it likes."""

    past_ms: int
    future_ms: int

    def adjust(self, columns: Columns, now_ms: int) -> None:
        """Give events whose time lies too far from *now_ms* that time, and note it."""
        earliest_ms = now_ms - self.past_ms if self.past_ms else 0
        latest_ms = now_ms + self.future_ms if self.future_ms else max(columns.at_ms)
        if earliest_ms <= min(columns.at_ms) and max(columns.at_ms) <= latest_ms:
            return
        for index, at_ms in enumerate(columns.at_ms):
            if earliest_ms <= at_ms <= latest_ms:
                continue
            position = columns.positions[index]
            columns.given_times[position] = columns.events[index].time
            columns.times[index] = format_instant(now_ms)
            columns.at_ms[index] = now_ms
            why = f"the time is {abs(now_ms - at_ms) // 1000} s {'ago' if at_ms < now_ms else 'ahead'}: that of arrival is kept"
            unknown = columns.warnings.get(position)
            columns.warnings[position] = Warned(Code.TIME_ADJUSTED, f"{why}; {unknown.detail}" if unknown else why)


class _Batch(msgspec.Struct):
    """A body of JSON, as far as it is many events."""

    batch: list[msgspec.Raw] | msgspec.UnsetType = msgspec.UNSET


_cut_batch = msgspec.json.Decoder(_Batch).decode


def documents_of(body: bytes, *, is_lines: bool) -> list[bytes]:
    """Return the JSON documents of a body, one an event, unread but for where each begins and ends.

    Args:
        is_lines: the body is NDJSON, one document a line; else it is one event, or an object with a list `batch`.

    Raises:
        BodyError: it is no JSON, or UTF-8; it holds no event, or too many.
    """
    if not body.isascii():
        try:
            body.decode()
        except UnicodeDecodeError as error:
            raise BodyError(400, "not_json", f"the body is not UTF-8: byte {error.start}") from None
    documents = _lines_of(body) if is_lines else _batch_of(body)
    if not documents:
        raise BodyError(422, "no_events", "the body holds no event")
    if len(documents) > EVENTS_MAX:
        raise BodyError(413, "too_many_events", f"{len(documents)} events; a request has at most {EVENTS_MAX}")
    return documents


def _lines_of(body: bytes) -> list[bytes]:
    return [stripped for line in body.split(LINE_BREAK) if (stripped := line.strip())]


def _batch_of(body: bytes) -> list[bytes]:
    try:
        batch = _cut_batch(body).batch
    except msgspec.ValidationError as error:
        raise BodyError(400, "not_events", f"the body is no event and no batch: {_lowered(error)}") from None
    except (msgspec.DecodeError, ValueError) as error:
        raise BodyError(400, "not_json", f"the body is not JSON: {_lowered(error)}") from None
    except RecursionError:
        raise BodyError(400, "not_json", "the body is nested too deep") from None
    return [body.strip()] if isinstance(batch, msgspec.UnsetType) else list(map(bytes, batch))


def _lowered(error: Exception) -> str:
    text = str(error)
    return text[:1].lower() + text[1:200]


def decode_all(raws: Sequence[bytes], first: int) -> Columns:
    """Return the events of documents that are all plainly right; *first* is the position of the first in the body.

    Raises:
        Exception: one of `FAST_ERRORS`; some document is wrong, or may be: ask `decode_one` about each.
    """
    joined = LINE_BREAK.join(raws)
    if not (
        max(map(len, raws)) <= EVENT_BYTES_MAX
        and set(map(_FIRST, raws)) == {OPENING}
        and set(map(_LAST, raws)) == {CLOSING}
        and is_text_safe(joined)
    ):
        raise ValueError("not for the fast decoder")
    decode = _decode_lines_narrow if has_long_characters(joined) else _decode_lines_wide
    events: list[Any] = decode(joined)
    if len(events) != len(raws):
        raise ValueError("some document is not one event")
    return _columns_of(range(first, first + len(raws)), raws, events)


def decode_batch(body: bytes) -> Columns:
    """Return the events of a body that is a batch of events that are all plainly right: in one go, without their documents.

    Raises:
        Exception: one of `FAST_ERRORS`; the body is something else, or may be: cut it into documents.
    """
    if not is_text_safe(body):
        raise ValueError("not for the fast decoder")
    batch: Any = (_decode_batch_narrow if has_long_characters(body) else _decode_batch_wide)(body)
    if not 0 < len(batch.batch) <= EVENTS_MAX:
        raise ValueError("no events, or too many")
    return _columns_of(range(len(batch.batch)), (), batch.batch)


def columns_of(body: bytes) -> Columns | None:
    """Return the events of a body that is a batch of events that are all plainly right, else None."""
    try:
        return decode_batch(body)
    except FAST_ERRORS:
        return None


def has_long_characters(raw: bytes) -> bool:
    """Say whether a character of a text may have more than one byte."""
    return not raw.isascii() or (b"\\" in raw and b"\\u" in raw)  # one byte is looked for 50 times faster than two


def _columns_of(positions: Sequence[int], raws: Sequence[bytes], events: list[Any]) -> Columns:
    ids = list(map(_ID, events))
    if not are_plain_ids(ids):
        raise ValueError("some id is none, or not as it is kept")
    users: list[str] = [event.user_id or event.anonymous_id for event in events]
    if not all(users):
        raise ValueError("some event has no user")
    times = list(map(_TIME, events))
    seconds = map(SECONDS.__getitem__, map(_SECOND, times))
    at_ms = list(map(add, seconds, map(FRACTIONS.__getitem__, map(_FRACTION, times))))
    return Columns(positions, raws, events, ids, users, times, at_ms)


def decode_one(raw: bytes, position: int) -> Columns:
    """Return one event as columns of one entry, as the pydantic model has it.

    Raises:
        RefusedEventError: it is none.
    """
    try:
        return decode_all((raw,), position)
    except FAST_ERRORS:
        model = read_event(raw)
    event = _Plain(**{name.rstrip("_"): value for name, value in model.__dict__.items()})
    at_ms = parse_moment(model.time)
    user = model.user_id or model.anonymous_id or ""
    columns = Columns([position], [raw], [event], [model.id.lower()], [user], [utc_text(model.time, at_ms)], [at_ms])
    unknown = unknown_fields(model)
    if unknown:
        columns.warnings[position] = Warned(Code.UNKNOWN_FIELD, unknown)
    return columns


def refused(raw: bytes, position: int, error: RefusedEventError) -> Refused:
    """Return what is said of a document that is no event."""
    return Refused(position, name_of(raw, position), error.code, error.detail, raw)


def are_plain_ids(ids: list[str]) -> bool:
    """Say whether all are UUIDs in lower case with dashes; with a few operations on all of them, not some on each.

    >>> are_plain_ids(["0190b5d4-7f6a-7cc3-98c4-dc0c0c07398f"])
    True
    """
    if set(map(len, ids)) != {UUID_LENGTH}:
        return False
    joined = "".join(ids).encode()
    dashes = b"-" * len(ids)
    return joined.translate(None, LOWER_HEX) == dashes * 4 and all(joined[place::UUID_LENGTH] == dashes for place in DASHES)


class _Named(msgspec.Struct):
    id: str = ""


class _Known(msgspec.Struct):
    user_id: str = ""
    anonymous_id: str = ""


def name_of(raw: bytes, position: int) -> str:
    """Return what results call a document that may be no event: its id if it has a text for one, else its position.

    >>> name_of(b'{"id": "a-1", "type": 5}', 0), name_of(b"[]", 7)
    ('a-1', '[7]')
    """
    try:
        name = msgspec.json.decode(raw, type=_Named).id
    except FAST_ERRORS:
        name = ""
    return name if _NAME_OF.fullmatch(name) else f"[{position}]"


def user_of(raw: bytes) -> str:
    """Return the user of a document that may be no event, empty where it names none that can be read."""
    try:
        known = msgspec.json.decode(raw, type=_Known)
    except FAST_ERRORS:
        return ""
    return (known.user_id or known.anonymous_id)[:TEXT_LENGTH_MAX]


def _value_type(*, key_length: int, text_length: int) -> Any:
    """Return the type of what may stand in a document, as deep as it may be."""
    key = Annotated[str, msgspec.Meta(max_length=key_length)]
    text = Annotated[str, msgspec.Meta(max_length=text_length)]
    whole = Annotated[int, msgspec.Meta(ge=INT64[0], le=INT64[1])]
    value: Any = Union[text, whole, float, bool, None]  # noqa: UP007 - built at run time
    for _ in range(DEPTH_MAX - 1):
        value = Union[text, whole, float, bool, None, list[value], dict[key, value]]  # noqa: UP007
    return Annotated[dict[key, value], msgspec.Meta(max_length=PROPERTIES_MAX)]


def _event_type(character_bytes: int) -> Any:
    """Return a struct with the fields and limits of `ProducerEventV1`, for texts of so many bytes a character."""
    name = Annotated[str, msgspec.Meta(min_length=1, max_length=TEXT_LENGTH_MAX)]
    label = Annotated[str, msgspec.Meta(max_length=TEXT_LENGTH_MAX)]
    document = _value_type(key_length=KEY_BYTES_MAX // character_bytes, text_length=VALUE_BYTES_MAX // character_bytes)
    fields: list[Any] = [
        ("id", str),
        ("type", name),
        ("time", str),
        ("user_id", label | None, None),
        ("anonymous_id", label | None, None),
        ("product", label, ""),
        ("source", label, ""),
        ("schema", label | None, None),
        ("properties", document, msgspec.field(default_factory=dict)),
        ("context", document, msgspec.field(default_factory=dict)),
    ]
    return msgspec.defstruct("Event", fields, gc=False, forbid_unknown_fields=True)


def _batch_type(event: Any) -> Any:
    """Return the struct of a body of many events."""
    return msgspec.defstruct("Batch", [("batch", list[event])])


_Plain, _Narrow = _event_type(1), _event_type(CHARACTER_BYTES_MAX)
_decode_lines_wide = msgspec.json.Decoder(_Plain).decode_lines
_decode_lines_narrow = msgspec.json.Decoder(_Narrow).decode_lines
_decode_batch_wide = msgspec.json.Decoder(_batch_type(_Plain)).decode
_decode_batch_narrow = msgspec.json.Decoder(_batch_type(_Narrow)).decode
