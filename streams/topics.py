"""Declare every stream as data: its topic, schema, key, time, dimensions and sums. Nothing below knows a field's name.

A second stream is a second `Stream` here, and a migration for its two tables of Postgres.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from streams.schemas import EventSchema, UserTagV1

APP_ID = "tally"
BUCKET_OFFSETS = 4096
DEAD_LETTERS = "dead-letters.v1"
REPLAYS = "dead-letter-replays.v1"
"""Marks of dead letters that were sent back, written in the transaction of the events themselves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """One stream of events and what is kept of it. Fields of the schema are named by dotted paths.

    Attributes:
        topic: Kafka topic of the events.
        schema: the model of one event.
        key: the user; also the key of the record.
        time: the event time, text.
        kind: a field of few values that profiles are split by.
        kinds: one byte for each value of `kind`; part of stored keys, so never changed.
        dimensions: fields that aggregates are kept by, by the name that queries and Postgres use.
        sums: integer fields that are added up, likewise; each at most 32 bits.
        kept: fields of a profile's row, in the order they are stored; key, kind and time are kept anyway.
        blocks_table, rows_table: names of the two Faust tables.
        cells_sql, events_sql: names of the two tables of Postgres, in schema `tally`.
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

    @property
    def tables(self) -> tuple[str, str]:
        """Names of both Faust tables."""
        return self.blocks_table, self.rows_table


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
)

STREAMS: tuple[Stream, ...] = (USER_TAGS,)


def changelog_of(table: str) -> str:
    """Return the topic that backs a Faust table, as Faust names it for version 1 of the app."""
    return f"{APP_ID}-{table}-changelog"
