"""Make the records of `events.v1` out of events, many at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from operator import attrgetter
from typing import Any

import msgspec

from gateway.auth.identity import Identity
from gateway.auth.identity import Refused as NotLetThrough
from gateway.events_decoding import Columns, Refused
from gateway.events_schema import Code
from streams.schemas import PROPERTIES_LENGTH_MAX

KIND = "EVENT"
TYPES_REMEMBERED_MAX = 2_000
LINE_BREAK = "\n"

_TYPE, _SOURCE, _SCHEMA = map(attrgetter, ("type", "source", "schema"))
_PROPERTIES, _CONTEXT = map(attrgetter, ("properties", "context"))
_REST = attrgetter("type", "product", "source", "time")
_encode_lines = msgspec.json.Encoder().encode_lines


class UncutError(Exception):
    """The events were decoded at once, and something is to be said of one that needs its document."""


class Details(msgspec.Struct, omit_defaults=True, gc=False):
    """What `properties` of a record holds of a producer's event."""

    properties: dict[str, Any]
    context: dict[str, Any] = {}
    schema: str | None = None
    anonymous_id: str | None = None
    time_adjusted: bool = False
    time_given: str | None = None


class Record(msgspec.Struct, gc=False):
    """The value of a record: the fields of `EventV1`, in their order; `data` is encoded already."""

    kind: str
    id: str
    product: str
    user: str
    time: str
    source: str
    properties: str
    data: msgspec.Raw


class Datapoints(dict[str, msgspec.Raw]):
    """The one datapoint of an event, encoded, by its type."""

    def __missing__(self, name: str) -> msgspec.Raw:
        if len(self) >= TYPES_REMEMBERED_MAX:
            self.clear()
        self[name] = encoded = msgspec.Raw(msgspec.json.encode([{"key": name, "value": ""}]))
        return encoded


DATAPOINTS = Datapoints()


@dataclass(slots=True)
class Records:
    """Records to be written, one entry an event in each list.

    Attributes:
        positions: of the events in the body.
        names: the ids they were sent with.
        ids: the ids they are kept with.
        users: the keys' texts.
        digests: of what the events said; of this process alone.
        products: of all that were added; the sender may be allowed only some.
        identities: what `gateway.events_recent` has made of users and ids; empty before.
    """

    positions: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    users: list[str] = field(default_factory=list)
    values: list[bytes] = field(default_factory=list)
    digests: list[int] = field(default_factory=list)
    products: set[str] = field(default_factory=set)
    identities: list[str] = field(default_factory=list)

    def add(self, columns: Columns, identity: Identity) -> list[Refused]:
        """Add the records of events that *identity* sends; return those that have no room in one.

        Raises:
            gateway.auth.identity.Refused: 403; an event says that somebody else sends it.
            UncutError: some have no room, and their documents are not known.
        """
        texts, digests = _details_of(columns)
        if max(map(len, texts)) > PROPERTIES_LENGTH_MAX:
            if not columns.raws:
                raise UncutError
            return self._add_fitting(columns, texts, digests, identity)
        self._add(columns, texts, digests, identity)
        return []

    def keep(self, indices: Iterable[int]) -> Records:
        """Return the records at *indices* only."""
        chosen = list(indices)
        return Records(
            positions=[self.positions[index] for index in chosen],
            names=[self.names[index] for index in chosen],
            ids=[self.ids[index] for index in chosen],
            users=[self.users[index] for index in chosen],
            values=[self.values[index] for index in chosen],
            digests=[self.digests[index] for index in chosen],
        )

    def _add(self, columns: Columns, texts: Sequence[str], digests: Sequence[int], identity: Identity) -> None:
        events = columns.events
        products, sources = _products_of(events, identity), _sources_of(events, identity)
        data = map(DATAPOINTS.__getitem__, map(_TYPE, events))
        records = map(Record, repeat(KIND), columns.ids, products, columns.users, columns.times, sources, texts, data)
        self.values += _encode_lines(list(records)).split(b"\n")[:-1]
        self.positions += columns.positions
        self.names += [event.id for event in events]
        self.ids += columns.ids
        self.users += columns.users
        self.digests += digests
        self.products.update(products)

    def _add_fitting(self, columns: Columns, texts: Sequence[str], digests: Sequence[int], identity: Identity) -> list[Refused]:
        """Add what fits, event by event."""
        refused: list[Refused] = []
        for index, text in enumerate(texts):
            position, raw = columns.positions[index], columns.raws[index]
            if len(text) > PROPERTIES_LENGTH_MAX:
                detail = f"properties and context have {len(text)} characters; at most {PROPERTIES_LENGTH_MAX}"
                refused.append(Refused(position, columns.events[index].id, Code.LIMIT, detail, raw))
                continue
            self._add(columns.one(index), [text], [digests[index]], identity)
        return refused


def _details_of(columns: Columns) -> tuple[list[str], list[int]]:
    """Return the text of each event's details, an object that can stand in a record as a text; and a digest of what it says."""
    events = columns.events
    anonymous = [event.anonymous_id if event.user_id else None for event in events]
    details = list(map(Details, map(_PROPERTIES, events), map(_CONTEXT, events), map(_SCHEMA, events), anonymous))
    texts = _texts_of(details)
    # Before times are adjusted: that depends on when an event comes.
    digests = list(map(hash, zip(map(_REST, events), texts, strict=True)))
    if columns.given_times:
        for position, each in zip(columns.positions, details, strict=True):
            if position in columns.given_times:
                each.time_adjusted, each.time_given = True, columns.given_times[position]
        texts = _texts_of(details)
    return texts, digests


def _texts_of(details: list[Details]) -> list[str]:
    return _encode_lines(details).decode().split(LINE_BREAK)[:-1]


def _products_of(events: list[Any], identity: Identity) -> list[str]:
    """Return the product of each event: what it says, else the only one that its sender may write for, else none."""
    allowed = identity.products
    default = next(iter(allowed)) if allowed is not None and len(allowed) == 1 else ""
    return [event.product or default for event in events]


def _sources_of(events: list[Any], identity: Identity) -> Iterable[str]:
    """Return who sent each event: the credentials' name; without authentication what the event says."""
    if identity.scheme == "none":
        return map(_SOURCE, events)
    if not set(map(_SOURCE, events)) <= {"", identity.name}:
        raise NotLetThrough(403, "an event names another source than these credentials do")
    return repeat(identity.name, len(events))
