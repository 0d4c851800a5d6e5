"""Say what producers may send to `/v1/events`: the pydantic models are the authority, for people and for every decoder."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from streams.errors import TallyError
from streams.event_time import SECONDS, format_instant
from streams.schemas import TEXT_LENGTH_MAX, check_text
from streams.topics import EVENT_BYTES_MAX

EVENTS_MAX = 1_000
"""Events of one request."""
PROPERTIES_MAX = 100
DEPTH_MAX = 8
"""Objects and lists within each other, `properties` or `context` itself the first."""
KEY_BYTES_MAX = 128
VALUE_BYTES_MAX = 8_192
NUMBER_DIGITS_MAX = 308
"""Digits of an integer; every larger one is beyond what others' JSON can hold."""
UNKNOWN_FIELDS_NAMED_MAX = 3
DETAIL_LENGTH_MAX = 300
INSTANT_MS_MAX = 253_402_300_799_999
"""The end of the year 9999."""

_UUID = r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"
_MOMENT = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(?:[Zz]|([+-])(\d\d):(\d\d))", re.ASCII)
_MOMENT_FORM = "not of the form YYYY-MM-DDTHH:MM:SS[.fff] with Z or an offset such as +02:00"


class Code(StrEnum):
    """Why an event is refused or was changed; a closed set, documented in docs/data.md."""

    NOT_JSON = "not_json"
    """A line of NDJSON is not one JSON document."""
    MISSING_FIELD = "schema.missing_field"
    """A field that every event has is missing."""
    WRONG_TYPE = "schema.wrong_type"
    """A field has another type or form than the schema says."""
    LIMIT = "schema.limit"
    """A text is too long, an object too large or nested too deep, a number too large."""
    TOO_LARGE = "too_large"
    """The event has more bytes than one may have."""
    TIME = "time"
    """The event time is unreadable, impossible, without an offset, or outside the years 1970 to 9999."""
    TEXT = "text"
    """A text holds NUL or a lone surrogate, which neither UTF-8 nor Postgres can hold."""
    TIME_ADJUSTED = "time_adjusted"
    """Taken, with the time of its arrival: its own is too far from now."""
    UNKNOWN_FIELD = "unknown_field"
    """Taken without fields that nobody knows."""


class RefusedEventError(TallyError):
    """One event is refused for good.

    Attributes:
        detail: what is wrong and where, without a value of the event.
    """

    def __init__(self, code: Code, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail[:DETAIL_LENGTH_MAX]


def parse_moment(text: str) -> int:
    """Return milliseconds since 1970 of a time with an offset.

    Raises:
        ValueError: the text is no such time, names no day of the calendar, or lies outside the years 1970 to 9999.

    >>> parse_moment("1970-01-02T02:00:00.5+02:00")
    86400500
    """
    match = _MOMENT.fullmatch(text)
    if match is None:
        raise ValueError(_MOMENT_FORM)
    day, clock, fraction, sign, hours, minutes = match.groups()
    offset_minutes = 0
    if sign:
        if int(hours) > 23 or int(minutes) > 59:
            raise ValueError(_MOMENT_FORM)
        offset_minutes = (int(hours) * 60 + int(minutes)) * (-1 if sign == "-" else 1)
    at_ms = SECONDS[f"{day}T{clock}"] - offset_minutes * 60_000 + int((fraction or "")[:3].ljust(3, "0"))
    if not 0 <= at_ms <= INSTANT_MS_MAX:
        raise ValueError("outside the years 1970 to 9999")
    return at_ms


def utc_text(text: str, at_ms: int) -> str:
    """Return an event time as records have it: as it came where it is in UTC, else to the millisecond.

    >>> utc_text("1970-01-02T02:00:00+02:00", 86_400_000)
    '1970-01-02T00:00:00.000Z'
    """
    return text if text[10] == "T" and text[-1] == "Z" else format_instant(at_ms)


def check_moment(text: str) -> str:
    """Refuse what is no time with an offset."""
    try:
        parse_moment(text)
    except ValueError as error:
        raise PydanticCustomError("time", "{why}", {"why": str(error)}) from None
    return text


def check_document(document: dict[str, Any]) -> dict[str, Any]:
    """Refuse an object that is too deep, or whose keys, texts or numbers nobody can hold."""
    level: list[Any] = [document]
    for _ in range(DEPTH_MAX):
        level = [part for each in level for part in _parts(each)]
    if level:
        raise PydanticCustomError("limit", "nested deeper than {most}", {"most": DEPTH_MAX})
    return document


def _parts(container: dict[str, Any] | list[Any]) -> Iterator[Any]:
    """Check the keys and plain values of a container and yield the containers in it."""
    values: Any = container
    if isinstance(container, dict):
        for key in container:
            _check_bytes(key, KEY_BYTES_MAX, "a key")
        values = container.values()
    for value in values:
        if isinstance(value, (dict, list)):
            yield value
        elif isinstance(value, str):
            _check_bytes(value, VALUE_BYTES_MAX, "a text")
        elif isinstance(value, (int, float)) and not _is_number(value):
            raise PydanticCustomError("limit", "a number is too large")


def _check_bytes(text: str, bytes_max: int, what: str) -> None:
    if "\0" in text:
        raise PydanticCustomError("text", "{what} holds the character NUL", {"what": what})
    if len(text) > bytes_max or len(text.encode()) > bytes_max:
        raise PydanticCustomError("limit", "{what} has more than {most} bytes", {"what": what, "most": bytes_max})


def _is_number(value: float) -> bool:
    return math.isfinite(value) if isinstance(value, float) else abs(value) < 10**NUMBER_DIGITS_MAX


Name = Annotated[str, Field(strict=True, min_length=1, max_length=TEXT_LENGTH_MAX), AfterValidator(check_text)]
Label = Annotated[str, Field(strict=True, max_length=TEXT_LENGTH_MAX), AfterValidator(check_text)]
Key = Annotated[str, Field(max_length=KEY_BYTES_MAX)]
Document = Annotated[dict[Key, JsonValue], Field(max_length=PROPERTIES_MAX), AfterValidator(check_document)]
EventId = Annotated[str, Field(strict=True, pattern=_UUID, json_schema_extra={"format": "uuid"})]
Moment = Annotated[
    str, Field(strict=True, max_length=40, json_schema_extra={"format": "date-time"}), AfterValidator(check_moment)
]
_DOCUMENT_LIMITS = (
    f"At most {PROPERTIES_MAX} entries, {DEPTH_MAX} levels deep, keys of {KEY_BYTES_MAX} bytes, texts of {VALUE_BYTES_MAX} "
    "bytes; kept as it is, texts without NUL."
)


EXAMPLES: list[JsonValue] = [
    {
        "id": "019d5f7e-8c1a-7b52-9f6e-3a1c5d7e9b20",
        "type": "page_viewed",
        "user_id": "judtin",
        "time": "2026-11-23T12:00:00.000Z",
        "product": "PENN_MOBILE",
        "properties": {"path": "/menus/today", "duration_ms": 310},
        "context": {"library": "tally-client/1.0", "page": {"title": "Menus"}},
    },
    {
        "id": "019d5f7e-8c1a-7b52-9f6e-3a1c5d7e9b21",
        "type": "course_searched",
        "anonymous_id": "4f9d",
        "time": "2026-11-23T07:00:01-05:00",
        "schema": "course_searched/2",
        "properties": {"query": "CIS 1200", "results": 3},
    },
]


def _is_there(name: str) -> JsonValue:
    """Return the schema of an object that has a text of this name."""
    return {"required": [name], "properties": {name: {"type": "string", "minLength": 1}}}


class ProducerEventV1(BaseModel):
    """What a user did, as a producer tells it. It needs `user_id` or `anonymous_id`; fields that nobody knows are left out."""

    model_config = ConfigDict(
        extra="allow",  # Unknown fields are told of, see `unknown_fields`; they are not kept.
        frozen=True,
        title="Event",
        json_schema_extra={"anyOf": [_is_there("user_id"), _is_there("anonymous_id")], "examples": EXAMPLES},
    )

    id: EventId = Field(description="Made by the producer when it happens, the same each time it is sent; unique for its user.")
    type: Name = Field(description="What happened, such as `page_viewed`.")
    user_id: Label | None = Field(None, description="Who did it. Empty is nobody, too.")
    anonymous_id: Label | None = Field(None, description="Who did it, where nobody is logged in.")
    time: Moment = Field(description="When it happened: RFC 3339 with Z or an offset.")
    product: Label = Field("", description="Of which product. Empty: the only one that the sender may write for.")
    source: Label = Field("", description="Who sends it. With authentication that is settled by the credentials.")
    schema_: Label | None = Field(None, alias="schema", description="Name and version of what the properties are.")
    properties: Document = Field({}, description=f"What else is known of it. {_DOCUMENT_LIMITS}")
    context: Document = Field({}, description=f"What surrounded it. {_DOCUMENT_LIMITS}")


class ProducerBatchV1(BaseModel):
    """Many events of a producer in one request."""

    model_config = ConfigDict(frozen=True, title="Batch")

    batch: Annotated[list[ProducerEventV1], Field(min_length=1, max_length=EVENTS_MAX)]


def read_event(raw: bytes) -> ProducerEventV1:
    """Return the event of a JSON document.

    Raises:
        RefusedEventError: it is none.
    """
    if len(raw) > EVENT_BYTES_MAX:
        raise RefusedEventError(Code.TOO_LARGE, f"{len(raw)} bytes; an event has at most {EVENT_BYTES_MAX}")
    try:
        event = ProducerEventV1.model_validate_json(raw)
    except ValidationError as error:
        raise refusal_of(error) from None
    if not (event.user_id or event.anonymous_id):
        raise RefusedEventError(Code.MISSING_FIELD, "user_id: or anonymous_id must be there")
    return event


def unknown_fields(event: ProducerEventV1) -> str:
    """Return a sentence on the fields that nobody knows; empty where there are none."""
    names = sorted(event.model_extra or ())
    if not names:
        return ""
    shown = ", ".join(repr(name[:40]) for name in names[:UNKNOWN_FIELDS_NAMED_MAX])
    more = len(names) - UNKNOWN_FIELDS_NAMED_MAX
    return f"left out: {shown}" + (f" and {more} more" if more > 0 else "")


def refusal_of(error: ValidationError) -> RefusedEventError:
    """Return pydantic's first error as a code and a place, without a value of the event."""
    first = error.errors(include_url=False, include_input=False)[0]
    path = first["loc"][:1] if first["loc"] else ()
    place = f"{path[0]}: " if path else ""
    message = first["msg"].removeprefix("Value error, ")
    return RefusedEventError(_code_of(first), place + message[:1].lower() + message[1:])


def _code_of(first: ErrorDetails) -> Code:
    kind, message = first["type"], first["msg"]
    if kind == "json_invalid":
        return Code.TEXT if "surrogate" in message or "hex escape" in message else Code.NOT_JSON
    if kind in ("text", "time", "missing"):
        return {"text": Code.TEXT, "time": Code.TIME, "missing": Code.MISSING_FIELD}[kind]
    if kind in ("limit", "string_too_long", "too_long", "string_too_short"):
        return Code.LIMIT
    return Code.TEXT if "NUL" in message else Code.WRONG_TYPE
