"""Make the two Faust tables of a stream, blocks and rows (`minute-blocks` and `user-profiles`), bytes to bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from streams.settings import Settings
from streams.topics import Stream, changelog_of
from tables.store import Fail, Store, reraise

TTL_MARGIN_S = 3_600
BLOCKS_BUFFER = 64
ROWS_BUFFER = 8
"""Records that recovery holds before it writes them: one carries up to 4,096 rows."""


@dataclass(frozen=True, slots=True)
class StreamTables:
    """The two tables of one stream; `rows` is None when profiles are switched off, and nothing else needs them."""

    stream: Stream
    blocks: Any
    rows: Any | None

    @property
    def block_store(self) -> Store:
        store: Store = self.blocks.data
        return store

    @property
    def row_store(self) -> Store | None:
        return None if self.rows is None else self.rows.data

    @property
    def all(self) -> list[Any]:
        return [table for table in (self.blocks, self.rows) if table is not None]


def keeps_rows(stream: Stream, settings: Settings) -> bool:
    """Say whether a stream has rows: always where duplicates are told by them."""
    return settings.worker.profiles or bool(stream.id)


def create_tables(app: Any, stream: Stream, settings: Settings, *, fail: Fail = reraise) -> StreamTables:
    """Declare the tables of a stream on an app; *fail* is called when the disk refuses while Faust opens or recovers one."""

    def table(name: str, *, packed: bool, ttl_s: int, buffer: int) -> Any:
        return app.Table(
            name,
            partitions=settings.topics.partitions,
            key_type=bytes,
            value_type=bytes,
            changelog_topic=app.topic(
                changelog_of(name), key_serializer="raw", value_serializer="raw", allow_empty=True, internal=True
            ),
            recovery_buffer_size=buffer,
            options={"packed": packed, "ttl_s": ttl_s, "cache_bytes": settings.worker.block_cache_mib << 20, "fail": fail},
        )

    blocks = table(stream.blocks_table, packed=False, ttl_s=0, buffer=BLOCKS_BUFFER)
    if not keeps_rows(stream, settings):
        return StreamTables(stream, blocks, None)
    ttl_s = stream.rows_horizon_s(settings.worker.horizon_s) + TTL_MARGIN_S
    return StreamTables(stream, blocks, table(stream.rows_table, packed=True, ttl_s=ttl_s, buffer=ROWS_BUFFER))
