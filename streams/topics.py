"""Declare every stream as data: its topic, schema, key, time, dimensions and sums. Nothing below knows a field's name.

A second stream is a second `Stream` here, and a migration for its two tables of Postgres.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from streams.schemas import EventSchema, EventV1, UserTagV1

APP_ID = "tally"
BUCKET_OFFSETS = 4096
EVENT_BYTES_MAX = 262_144
HOUR_S = 3_600
DEAD_LETTERS = "dead-letters.v1"
REPLAYS = "dead-letter-replays.v1"
"""Marks of dead letters that were sent back, written in the transaction of the events themselves."""
SESSIONS = "sessions.v1"
"""Whose session it is, by the session's digest; gateways tell each other (gateway/session_topic.py)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """One stream of events and what is kept of it. Fields of the schema are named by dotted paths.

    Attributes:
        topic: Kafka topic of the events.
        schema: the model of one event.
        key: the user; also the key of the record, unless a producer keeps another order (a query then asks every partition).
        time: the event time, text.
        kind: a field of few values that profiles are split by.
        kinds: one byte for each value of `kind`; part of stored keys, so never changed.
        dimensions: fields that aggregates are kept by, by the name that queries and Postgres use.
        sums: integer fields that are added up, likewise; each at most 32 bits.
        kept: fields of a profile's row, in the order they are stored; key, kind and time are kept anyway.
        blocks_table, rows_table: names of the two Faust tables.
        cells_sql, events_sql: names of the two tables of Postgres, in schema `tally`.
        user_sql: the column of `events_sql` that holds the user.
        path: what the paths of its queries begin with.
        bytes_max: what the value of a record may have.
        members: a list of the event whose elements are counted one by one, each with dimensions of its own (`members` first in
            their path); the event itself, where empty. Its rows are one an event in any case.
        id: what tells a submission from the same one sent again, empty where two equal events are two.
        duplicates_within_s: for how long after the first one of a user and id another is left out (tables/duplicates.py).
        horizon_s_min: for how long rows are kept at least, whatever `worker.horizon_s` says: the duplicates', and a lag.
    """

    topic: str
    schema: type[EventSchema]
    key: str
    time: str
    kind: str
    kinds: Mapping[str, bytes]
    dimensions: Mapping[str, str]
    sums: Mapping[str, str]
    kept: tuple[str, ...]
    blocks_table: str
    rows_table: str
    cells_sql: str
    events_sql: str
    user_sql: str
    path: str = ""
    bytes_max: int = EVENT_BYTES_MAX
    members: str = ""
    id: str = ""
    duplicates_within_s: int = 0
    horizon_s_min: int = 0

    @property
    def tables(self) -> tuple[str, str]:
        """Names of both Faust tables."""
        return self.blocks_table, self.rows_table

    def rows_horizon_s(self, horizon_s: int) -> int:
        """Return for how long rows are kept after they were written, given the horizon of aggregates."""
        return max(horizon_s, self.horizon_s_min)


USER_TAGS = Stream(
    topic="user-tags.v1",
    schema=UserTagV1,
    key="cookie",
    time="time",
    kind="action",
    kinds={"VIEW": b"V", "BUY": b"B"},
    dimensions={
        "action": "action",
        "origin": "origin",
        "brand_id": "product_info.brand_id",
        "category_id": "product_info.category_id",
    },
    sums={"price": "product_info.price"},
    kept=(
        "country",
        "device",
        "origin",
        "product_info.product_id",
        "product_info.brand_id",
        "product_info.category_id",
        "product_info.price",
    ),
    blocks_table="minute-blocks",
    rows_table="user-profiles",
    cells_sql="minute_cells",
    events_sql="user_events",
    user_sql="cookie",
)

EVENTS = Stream(
    topic="events.v1",
    schema=EventV1,
    key="user",
    time="time",
    kind="kind",
    kinds={"EVENT": b"E", "TRANSACTION": b"T"},
    dimensions={"kind": "kind", "product": "product", "datapoint": "data.key"},
    sums={},
    kept=("id", "product", "source", "properties", "data"),
    blocks_table="event-blocks",
    rows_table="event-timeline",
    cells_sql="event_minute_cells",
    events_sql="events",
    user_sql="user_id",
    path="/v1",
    bytes_max=4_000_000,
    members="data",
    id="id",
    duplicates_within_s=48 * HOUR_S,
    horizon_s_min=72 * HOUR_S,
)

STREAMS: tuple[Stream, ...] = (USER_TAGS, EVENTS)


def changelog_of(table: str) -> str:
    """Return the topic that backs a Faust table, as Faust names it for version 1 of the app."""
    return f"{APP_ID}-{table}-changelog"
