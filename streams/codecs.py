"""Turn a record's bytes into an event, or into a reason: msgspec for the many, pydantic for the doubtful.

The pydantic model decides. The fast decoder is a struct made of that model, and takes only what pydantic takes, with equal
values; a property test holds the two together. What msgspec is laxer about never reaches it alone: it skips unknown
fields without checking their UTF-8, and nests deeper than pydantic's parser. A record that is too long for that to be looked
at is taken fast only if it has no unknown field: then nothing is skipped, and nothing nests but what is declared.
"""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Iterable, Sequence
from operator import add, attrgetter, itemgetter
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import annotated_types
import msgspec
from pydantic import AfterValidator, BaseModel, Strict, ValidationError
from pydantic.fields import FieldInfo

from streams.errors import InvalidEventError, Reason
from streams.event_time import CANONICAL_LENGTH, FRACTIONS, SECOND_TEXT_LENGTH, SECONDS
from streams.schemas import check_instant, check_text
from streams.topics import Stream

PLAIN_BYTES_MAX = 400
"""pydantic's parser nests 200 deep at most; so many brackets and a whole event need more bytes than this."""
BRACKETS_MAX = 100
CAREFUL_BYTES_MAX = 4_000
"""Python turns no more than 4,300 digits into an integer; a shorter record cannot hold more."""

_UNHOLDABLE = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")
_UNION_TYPE = re.compile(r"^int$|^constrained-|\[")
"""What pydantic puts into a place for the type of a union that it tried."""
FAST_ERRORS = (msgspec.DecodeError, ValueError, IndexError, RecursionError, TypeError, AttributeError)

Decode = Callable[[bytes], Any]
LINE_BREAK = b"\n"
OPENING, CLOSING = b"{}"
_FIRST, _LAST = itemgetter(0), itemgetter(-1)
_SECOND, _FRACTION = itemgetter(slice(SECOND_TEXT_LENGTH)), itemgetter(slice(SECOND_TEXT_LENGTH, None))


class Decoded(NamedTuple):
    """Events as columns, one entry an event: its offset, itself, its time as text and in milliseconds since 1970."""

    offsets: Sequence[int]
    events: list[Any]
    texts: list[str]
    at_ms: list[int]


class Codec:
    """Decoders of one stream: `decode_run` for the hot path, `decode` for one record and for everybody else."""

    def __init__(self, stream: Stream) -> None:
        refuse_unknown_checks(stream.schema, instant=stream.time)
        self.stream = stream
        self.struct = struct_of(stream.schema)
        short: Any = msgspec.json.Decoder(self.struct)
        long: Any = msgspec.json.Decoder(struct_of(stream.schema, closed=True))
        self._short: Decode = short.decode
        self._short_lines: Callable[[bytes], list[Any]] = short.decode_lines
        self._long: Decode = long.decode
        self._long_lines: Callable[[bytes], list[Any]] = long.decode_lines
        self.key_of: Callable[[Any], str] = attrgetter(stream.key)
        self.time_of: Callable[[Any], str] = attrgetter(stream.time)
        self.kind_of: Callable[[Any], str] = attrgetter(stream.kind)

    def decode_run(self, values: Sequence[bytes | None], base: int) -> Decoded:
        """Return the events of contiguous offsets from *base* on: fast, and all or nothing.

        All records are decoded as the lines of one text, which takes a third less time than one by one, and what can be asked
        of all bytes at once is not asked of each record. Each record begins with `{` and ends with `}`, and JSON knows no
        document that reads on from `}` over a line break to `{`: none spans two records, so each record holds one at least,
        and where there are as many documents as records it holds one.

        Raises:
            Exception: one of `FAST_ERRORS`; some value is invalid, or may be: ask `decode` about each.
        """
        joined = LINE_BREAK.join(values)  # type: ignore[arg-type]
        longest = max(map(len, values))  # type: ignore[arg-type]
        if not (
            longest <= self.stream.bytes_max
            and set(map(_FIRST, values)) == {OPENING}  # type: ignore[arg-type]
            and set(map(_LAST, values)) == {CLOSING}  # type: ignore[arg-type]
            and is_text_safe(joined)
        ):
            raise ValueError("not for the fast decoder")
        events = (self._short_lines if longest <= PLAIN_BYTES_MAX else self._long_lines)(joined)
        if len(events) != len(values):
            raise ValueError("some record is not one document")
        texts = list(map(self.time_of, events))
        seconds = map(SECONDS.__getitem__, map(_SECOND, texts))
        at_ms = list(map(add, seconds, map(FRACTIONS.__getitem__, map(_FRACTION, texts))))
        return Decoded(range(base, base + len(events)), events, texts, at_ms)

    def decode(self, raw: bytes | None) -> tuple[Any, int]:
        """Return the event and its time (milliseconds since 1970).

        Raises:
            InvalidEventError: with the reason code and where in the document it is wrong.
        """
        if raw is None or not raw:
            raise InvalidEventError(Reason.EMPTY, "the record has no value")
        if len(raw) > self.stream.bytes_max:
            raise InvalidEventError(Reason.TOO_LARGE, f"{len(raw)} bytes; an event has at most {self.stream.bytes_max}")
        try:
            event = self._fast(raw)
        except FAST_ERRORS:
            event = self._authority(raw)
        text = self.time_of(event)
        try:
            at_ms = SECONDS[text[:SECOND_TEXT_LENGTH]] + FRACTIONS[text[SECOND_TEXT_LENGTH:]]
        except ValueError:
            event = self._authority(raw)  # raises, with the place
            raise AssertionError("pydantic took a time that the fast decoder refuses") from None
        return event, at_ms

    def _fast(self, raw: bytes) -> Any:
        """Return the event of the fast decoder.

        Raises:
            Exception: one of `FAST_ERRORS`; only the authority can tell.
        """
        if not is_text_safe(raw):
            raise ValueError("not for the fast decoder")
        return (self._short if is_shallow(raw) else self._long)(raw)

    def _authority(self, raw: bytes) -> Any:
        try:
            model = self.stream.schema.model_validate_json(raw)
        except ValidationError as error:
            raise invalid(error) from None
        return msgspec.convert(model.model_dump(), self.struct)


def is_shallow(raw: bytes) -> bool:
    """Say whether what the fast decoder skips is surely what the authority's parser takes: wrong only to the safe side."""
    return len(raw) <= PLAIN_BYTES_MAX or (len(raw) <= CAREFUL_BYTES_MAX and raw.count(b"[") + raw.count(b"{") <= BRACKETS_MAX)


def is_text_safe(raw: bytes) -> bool:
    """Say whether the text of a record, or of many with a line feed between each two, is UTF-8 that everybody can hold."""
    if b"\\" in raw and _UNHOLDABLE.search(raw):
        return False
    if not raw.isascii():
        try:
            raw.decode()
        except UnicodeDecodeError:
            return False
    return True


def is_canonical(text: str) -> bool:
    """Say whether an accepted time is written with exactly three digits of fraction."""
    return len(text) == CANONICAL_LENGTH


def invalid(error: ValidationError) -> InvalidEventError:
    """Return pydantic's first error, or that of a text before it, as a reason code and a place, without the payload."""
    errors = error.errors(include_url=False, include_input=False)
    first = next((each for each in errors if "NUL" in each["msg"]), errors[0])  # a union names its other types first
    place = ".".join(str(part) for part in first["loc"] if not _UNION_TYPE.search(str(part)))
    message = first["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    reason = Reason.SCHEMA
    if first["type"] == "json_invalid":
        surrogate = "surrogate" in message or "hex escape" in message
        reason = Reason.TEXT if surrogate else Reason.NOT_JSON
    elif "NUL" in message:
        reason = Reason.TEXT
    elif first["type"] == "value_error":
        reason = Reason.TIME
    return InvalidEventError(reason, f"{place}: {message}" if place else message)


def fields_of(paths: Iterable[str]) -> Callable[[Any], tuple[Any, ...]]:
    """Return a getter of dotted paths that gives a tuple even of one field or none, as `attrgetter` does not."""
    names = tuple(paths)
    if len(names) > 1:
        return attrgetter(*names)
    if not names:
        return lambda event: ()
    only = attrgetter(names[0])
    return lambda event: (only(event),)


def refuse_unknown_checks(model: type[BaseModel], *, instant: str, path: str = "") -> None:
    """Refuse a model that checks more than the fast decoder does: its events would pass unchecked.

    Args:
        model: the schema of a stream, or a part of it.
        instant: path of the event time, the one instant that is checked after decoding.
        path: where in the schema the model stands.

    Raises:
        TypeError: a field has a limit, a validator or an alias that has no counterpart here.
    """
    decorators = model.__pydantic_decorators__
    if decorators.field_validators or decorators.model_validators or decorators.validators or decorators.root_validators:
        raise TypeError(f"{model.__name__} has validators of its own, which the fast decoder does not know")
    for name, field in model.model_fields.items():
        place = f"{path}{name}"
        if field.alias or field.validation_alias:
            raise TypeError(f"{place} has an alias, which the fast decoder does not know")
        for annotation, metadata in _members(field):
            for item in metadata:
                check = item.func if isinstance(item, AfterValidator) else None
                known = isinstance(item, (Strict, annotated_types.Ge, annotated_types.Le, annotated_types.MaxLen))
                if not known and check is not check_text and not (check is check_instant and place == instant):
                    raise TypeError(f"{place} is checked by {item!r}, which the fast decoder does not know")
            if isinstance(annotation, type) and issubclass(annotation, BaseModel):
                refuse_unknown_checks(annotation, instant=instant, path=f"{place}.")


def struct_of(model: type[BaseModel], *, closed: bool = False) -> type[msgspec.Struct]:
    """Return a struct with the fields, types and limits of a pydantic model; a *closed* one refuses unknown fields.

    Raises:
        TypeError: the model uses a type that has no counterpart here.
    """
    fields = [(name, _type_of(field, closed=closed)) for name, field in model.model_fields.items()]
    return msgspec.defstruct(model.__name__, fields, gc=False, frozen=True, forbid_unknown_fields=closed)


def _plain(field: FieldInfo | Any) -> tuple[Any, list[Any]]:
    """Return the bare annotation and all its metadata, however deep pydantic has put them."""
    annotation, metadata = (field.annotation, list(field.metadata)) if isinstance(field, FieldInfo) else (field, [])
    if get_origin(annotation) is Annotated:
        annotation, *outer = get_args(annotation)
        metadata += [item for entry in outer for item in (entry.metadata if isinstance(entry, FieldInfo) else [entry])]
    return annotation, metadata


def _members(field: FieldInfo | Any) -> list[tuple[Any, list[Any]]]:
    """Return annotation and metadata of a field, and of each member of its union or of its list's elements."""
    annotation, metadata = _plain(field)
    if get_origin(annotation) not in (list, Union, types.UnionType):
        return [(annotation, metadata)]
    members = [member for part in get_args(annotation) for member in _members(part)]
    return [(annotation, metadata), *members]


def _type_of(field: FieldInfo | Any, *, closed: bool) -> Any:
    annotation, metadata = _plain(field)
    if get_origin(annotation) in (Union, types.UnionType):
        return Union[tuple(_type_of(member, closed=closed) for member in get_args(annotation))]  # noqa: UP007 - at run time
    if get_origin(annotation) is Literal:
        return annotation
    if get_origin(annotation) is list:
        (element,) = get_args(annotation)
        return _limited(list[_type_of(element, closed=closed)], metadata)  # type: ignore[misc]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return struct_of(annotation, closed=closed)
    if annotation not in (int, str):
        raise TypeError(f"no fast type for {annotation!r}")
    return _limited(annotation, metadata)


def _limited(fast: Any, metadata: Iterable[Any]) -> Any:
    limits: dict[str, Any] = {}
    for item in metadata:
        if isinstance(item, annotated_types.Ge):
            limits["ge"] = item.ge
        elif isinstance(item, annotated_types.Le):
            limits["le"] = item.le
        elif isinstance(item, annotated_types.MaxLen):
            limits["max_length"] = item.max_length
    return Annotated[fast, msgspec.Meta(**limits)] if limits else fast
