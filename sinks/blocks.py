"""Write blocks: of each (partition, bucket, minute) the version with the greatest `through`, as one row a cell.

A second delivery changes nothing: a version not greater than the stored one is left out, and a greater one replaces the
rows of the older under whatever day they lie.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import NamedTuple

import msgspec
import psycopg

from sinks.copy_text import copy, copy_isolated, lines_of, name_error, render_block, render_minute
from sinks.days import DayPartitions
from sinks.queries import column_names, query, table_name
from sinks.rollups import Toucher, touches_of
from sinks.writers import DeadLetter, Pending, Place, Record, Written, unreadable
from streams.errors import Reason
from streams.topics import Stream, changelog_of
from tables.blocks import KEY_BYTES, PROGRESS, Block, BlockKey, decode_block

INT64_MAX = (1 << 63) - 1


class Identity(NamedTuple):
    """One block, whatever its version."""

    partition: int
    bucket: int
    minute: int


class Version(NamedTuple):
    """One version of a block, and the record it came in."""

    key: BlockKey
    block: Block
    day: date
    record: Record

    @property
    def identity(self) -> Identity:
        """What the greatest `through` is sought by."""
        return Identity(self.record.partition, self.key.bucket, self.key.minute)


class BlockWriter:
    """The sink of one stream's blocks."""

    def __init__(self, stream: Stream, days: DayPartitions) -> None:
        self.stream = stream
        self.days = days
        self.topic = changelog_of(stream.blocks_table)
        self.blocks_sql = blocks_sql(stream)
        sums = tuple(f"{name}_sum" for name in stream.sums)
        self.columns = ("stored_on", "source_partition", "bucket", "minute_at", *stream.dimensions, "event_count", *sums)
        cells, blocks = table_name(stream.cells_sql), table_name(self.blocks_sql)
        self._stored = query("stored_versions", blocks=blocks)
        self._delete = query("delete_cells", cells=cells)
        self._copy = query("copy_rows", table=cells, columns=column_names(self.columns))
        self._save = query("save_versions", blocks=blocks)
        self._toucher = Toucher(stream)

    def accept(self, record: Record) -> Pending | None:
        """Return the version of a block; tombstones, progress and keep-alives say nothing.

        Postgres keeps what it has: the version that supersedes another comes before its tombstone.
        """
        if record.value is None or record.key is None or len(record.key) != KEY_BYTES:
            return None
        key = BlockKey.decode(record.key)
        if key.minute == PROGRESS:
            return None
        try:
            block = self._decode(key, record.value)
        except (ValueError, TypeError, IndexError, ZeroDivisionError, msgspec.MsgspecError) as error:
            return unreadable(record, f"not a block: {type(error).__name__}")
        version = Version(key, block, self.days.arrival_day(record.timestamp), record)
        return Pending(Place(record.topic, record.partition), record.offset, len(block), version)

    def _decode(self, key: BlockKey, value: bytes) -> Block:
        block = decode_block(value)
        shape = len(block.dimensions), len(block.sums)
        if shape != (len(self.stream.dimensions), len(self.stream.sums)) or max(key) > INT64_MAX:
            raise ValueError("not a block of this stream")
        for values, codes in block.dimensions:
            if codes.max() >= len(values):
                raise ValueError("a code without a value")
        return block

    def prepare(self, connection: psycopg.Connection, pending: Sequence[Pending]) -> None:
        """Make the partitions of the days."""
        self.days.ensure(connection, {item.content.day for item in pending if item.content})

    def write(self, cursor: psycopg.Cursor, pending: Sequence[Pending], *, isolate: bool) -> Written:
        """Replace the blocks that are older than what is pending."""
        versions = [item.content for item in pending if item.content]
        newest = greatest(versions)
        stored = self._find_stored(cursor, list(newest))
        winners = [version for version in newest.values() if version.key.through > stored.get(version.identity, (-1,))[0]]
        written = Written()
        if winners:
            self._replace(cursor, winners, stored, written)
            self._insert(cursor, winners, written, isolate=isolate)
            self._save_versions(cursor, winners)
            self._touch(cursor, winners, stored)
        written.counts[self.stream.cells_sql, "superseded"] = len(versions) - len(winners)
        return written

    def _find_stored(self, cursor: psycopg.Cursor, blocks: list[Identity]) -> dict[Identity, tuple[int, date]]:
        if not blocks:
            return {}
        cursor.execute(self._stored, _arrays(blocks))
        return {blocks[number - 1]: (through, day) for number, through, day in cursor.fetchall()}

    def _replace(
        self,
        cursor: psycopg.Cursor,
        winners: Sequence[Version],
        stored: Mapping[Identity, tuple[int, date]],
        written: Written,
    ) -> None:
        replaced = [
            {**version.identity._asdict(), "stored_on": stored[version.identity][1]}
            for version in winners
            if version.identity in stored
        ]
        if replaced:
            cursor.executemany(self._delete, replaced)
            written.counts[self.stream.cells_sql, "deleted"] += max(cursor.rowcount, 0)

    def _insert(self, cursor: psycopg.Cursor, winners: Sequence[Version], written: Written, *, isolate: bool) -> None:
        counts, cells = written.counts, self.stream.cells_sql
        if not isolate:
            copy(cursor, self._copy, map(_render, winners))
            counts[cells, "written"] += sum(len(version.block) for version in winners)
            return
        for version in winners:
            lines = lines_of(_render(version))
            refused = copy_isolated(cursor, self._copy, lines)
            counts[cells, "written"] += len(lines) - len(refused)
            if refused:
                counts[cells, "refused"] += len(refused)
                written.refused.append(_refuse(version, list(refused.values()), of=len(lines)))

    def _save_versions(self, cursor: psycopg.Cursor, winners: Sequence[Version]) -> None:
        arrays = _arrays([version.identity for version in winners])
        throughs = [version.key.through for version in winners]
        cursor.execute(self._save, arrays | {"throughs": throughs, "days": [version.day for version in winners]})

    def _touch(self, cursor: psycopg.Cursor, winners: Sequence[Version], stored: Mapping[Identity, tuple[int, date]]) -> None:
        """Mark the hours of what was written, and of what that replaced: it may lie under another day."""
        touched = [(version.day, version.identity) for version in winners]
        touched += [(stored[identity][1], identity) for _, identity in touched if identity in stored]
        self._toucher.touch(cursor, touches_of((day, identity.minute, identity.partition) for day, identity in touched))


def blocks_sql(stream: Stream) -> str:
    """Return the name of the table that holds which version of each block is stored."""
    return f"{stream.cells_sql}_blocks"


def greatest(versions: Sequence[Version]) -> dict[Identity, Version]:
    """Return of each block the version with the greatest `through`; equal ones are equal, so either."""
    newest: dict[Identity, Version] = {}
    for version in versions:
        known = newest.get(version.identity)
        if known is None or version.key.through > known.key.through:
            newest[version.identity] = version
    return newest


def _arrays(blocks: Sequence[Identity]) -> dict[str, list[int]]:
    partitions, buckets, minutes = zip(*blocks, strict=True)
    return {"partitions": list(partitions), "buckets": list(buckets), "minutes": list(minutes)}


def _render(version: Version) -> str:
    partition, bucket, minute = version.identity
    return render_block((version.day, partition, bucket, render_minute(minute)), version.block)


def _refuse(version: Version, errors: Sequence[psycopg.Error], *, of: int) -> DeadLetter:
    """Return the whole record as one dead letter: a cell has no position of its own."""
    record = version.record
    detail = f"{len(errors)} of {of} cells refused, the others are written: {name_error(errors[0])}"
    place = (record.topic, record.partition, record.offset)
    return DeadLetter(*place, Reason.REFUSED_BY_POSTGRES, detail, record.key, record.value)
