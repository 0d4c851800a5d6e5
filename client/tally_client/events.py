"""One event: from what a caller says to the bytes that are queued, sent and spooled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date, datetime, timezone
from decimal import Decimal
from typing import Any, NamedTuple, TypedDict, Union
from uuid import UUID

from tally_client.clock import Clock, rfc3339
from tally_client.ids import new_id

EVENT_BYTES_MAX = 256_000
"""The server takes 256 KB an event; what is longer would be refused there, with everything beside it."""

EventTime = Union[datetime, str, None]


class EventFields(TypedDict, total=False):
    """What an event may have besides its type, user and properties."""

    id: str | UUID
    """Made at enqueue where it is not given; the same id is counted once."""
    anonymous_id: str
    time: EventTime
    """When it happened; now by default. A naive one is local time, as everywhere in Python."""
    product: str
    source: str
    schema: str
    context: Mapping[str, Any]


FIELDS = frozenset(EventFields.__annotations__)


class QueuedEvent(NamedTuple):
    """An event on its way: its id, its JSON, when it was enqueued (`Clock.elapsed_s`), and whether the spool has it."""

    event_id: str
    body: bytes
    enqueued_at_s: float
    spooled: bool = False


class InvalidEventError(Exception):
    """An event that cannot be sent as it is.

    Attributes:
        code: `invalid_event` or `event_too_large`.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


def compose(
    event_type: str,
    user_id: str | None,
    properties: Mapping[str, Any] | None,
    fields: EventFields,
    clock: Clock,
) -> dict[str, Any]:
    """Return an event as the wire wants it, with its id and its time.

    Raises:
        InvalidEventError: no type, nobody it is of, an id that is no UUID, a time that is none.
    """
    if not isinstance(event_type, str) or not event_type:
        raise InvalidEventError("invalid_event", "the type must be a text that is not empty")
    if fields and not fields.keys() <= FIELDS:
        raise InvalidEventError("invalid_event", f"unknown fields: {', '.join(sorted(fields.keys() - FIELDS))}")
    if not isinstance(properties, (dict, Mapping, type(None))):
        raise InvalidEventError("invalid_event", "the properties must be an object")
    now_s = clock.wall_s()
    given = fields.get("id")
    event: dict[str, Any] = {"id": new_id(now_s) if given is None else _uuid(given), "type": event_type}
    anonymous_id = fields.get("anonymous_id")
    if user_id is not None:
        event["user_id"] = str(user_id)
    if anonymous_id is not None:
        event["anonymous_id"] = str(anonymous_id)
    if not event.get("user_id") and not event.get("anonymous_id"):
        raise InvalidEventError("invalid_event", "user_id or anonymous_id must be given")
    time = fields.get("time")
    event["time"] = rfc3339(now_s) if time is None else in_utc(time)
    for name in ("product", "source", "schema"):
        if fields.get(name) is not None:
            event[name] = fields.get(name)
    event["properties"] = {} if properties is None else properties
    event["context"] = fields.get("context") or {}
    return event


def encode(event: Mapping[str, Any]) -> bytes:
    """Return an event's JSON in UTF-8.

    Raises:
        InvalidEventError: something in it has no JSON, or it has more than 256,000 bytes.
    """
    try:
        body = _encoder.encode(event).encode("utf-8")
    except Exception as error:  # noqa: BLE001 - also what objects of the caller raise while they are looked at
        raise InvalidEventError("invalid_event", f"the event has no JSON: {type(error).__name__}") from None
    if len(body) > EVENT_BYTES_MAX:
        raise InvalidEventError("event_too_large", f"{len(body)} bytes, at most {EVENT_BYTES_MAX}")
    return body


def in_utc(time: datetime | str) -> str:
    """Return an instant as RFC 3339 in UTC.

    Raises:
        InvalidEventError: it is neither a datetime nor a text of ISO 8601.

    >>> in_utc("2025-01-02T08:34:05+05:30")
    '2025-01-02T03:04:05Z'
    """
    try:
        at = datetime.fromisoformat(time.replace("Z", "+00:00")) if isinstance(time, str) else time
        return at.astimezone(timezone.utc).isoformat().replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError, AttributeError):
        raise InvalidEventError("invalid_event", "the time is none that ISO 8601 knows") from None


def _uuid(given: str | UUID) -> str:
    try:
        return str(given if isinstance(given, UUID) else UUID(given))
    except (ValueError, AttributeError, TypeError):
        raise InvalidEventError("invalid_event", "the id is no UUID") from None


def _plain(value: object) -> object:
    """Return JSON's own kind of what callers like to put into properties."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, (date, Decimal, UUID)):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (set, frozenset)):
        return list(value)
    raise TypeError(f"{type(value).__name__} has no JSON")


_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain)
