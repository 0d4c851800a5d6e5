"""Play the gateway and the worker for the sinks: submissions into the source topic, and their rows into the changelog."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import msgspec

from streams.codecs import Codec
from streams.topics import EVENTS, changelog_of
from tables.profiles import INVERSE, ORDER, Row, RowCodec, encode_spans
from tests.support.sinks_process import Changelogs, select

ROWS_TOPIC = changelog_of(EVENTS.rows_table)
BLOCKS_TOPIC = changelog_of(EVENTS.blocks_table)
CODEC = Codec(EVENTS)
ROW_CODEC = RowCodec(EVENTS)
INDEX, VERDICT = b"\xfe", b"\xfe\xff"

Data = Iterable[tuple[str, str]]


def a_submission(id: str = "s1", data: Data = (("user.click", "1"),), **fields: Any) -> bytes:  # noqa: A002 - the field's name
    """Return the value of a record of `events.v1`: a Labs transaction, where *fields* do not say otherwise."""
    defaults = {
        "kind": "TRANSACTION", "product": "MOBILE_BACKEND", "user": "judtin", "time": "2024-01-01T00:00:00.000Z", "source": "",
        "properties": "{}",
    }  # fmt: skip
    datapoints = [{"key": key, "value": value} for key, value in data]
    return msgspec.json.encode({"id": id, **defaults, **fields, "data": datapoints})


def row_of(raw: bytes, offset: int) -> Row:
    """Return the row that a worker makes of a record, as the sinks read it."""
    event, at_ms = CODEC.decode(raw)
    made = Row(event.user, event.kind, at_ms, offset, event.time, ROW_CODEC.kept_of(event))
    return ROW_CODEC.decode(*ROW_CODEC.encode(made))


def rows_of(raws: Sequence[bytes], *, base: int = 0, duplicates: Collection[int] = ()) -> list[bytes]:
    """Return keys and values in turn of what a worker writes of contiguous records: rows, index, and verdicts."""
    parts: list[bytes] = []
    for offset, raw in enumerate(raws, base):
        inverse = INVERSE - offset
        if offset in duplicates:
            parts += [VERDICT + inverse.to_bytes(8, "big"), b""]
            continue
        row = row_of(raw, offset)
        index = INDEX + row.user.encode() + b"\0" + row.kept[0].encode() + ORDER.pack(INVERSE - row.at_ms, inverse)
        parts += [*ROW_CODEC.encode(row), index, b""]
    return parts


class Submitter:
    """Writes records of one test; of each partition the next source offset is known."""

    def __init__(self, changelogs: Changelogs) -> None:
        self.changelogs = changelogs
        self.next: dict[int, int] = {}

    def submit(self, raws: Sequence[bytes], *, partition: int = 0) -> int:
        """Put records into the source topic, as the gateway does, and return the offset of the first."""
        base = self.next.get(partition, 0)
        self.changelogs.send(EVENTS.topic, partition, [(b"MOBILE_BACKEND", raw) for raw in raws])
        self.next[partition] = base + len(raws)
        return base

    def count(self, raws: Sequence[bytes], base: int, *, partition: int = 0, duplicates: Collection[int] = ()) -> None:
        """Put their rows into the changelog, as the worker does."""
        records = list(encode_spans(rows_of(raws, base=base, duplicates=duplicates)))
        self.changelogs.send(ROWS_TOPIC, partition, records)

    def carry(self, raws: Sequence[bytes], *, partition: int = 0, duplicates: Collection[int] = ()) -> int:
        """Do both."""
        base = self.submit(raws, partition=partition)
        self.count(raws, base, partition=partition, duplicates=duplicates)
        return base


def stored(dsn: str) -> list[tuple[Any, ...]]:
    """Return (partition, offset, position, id, datapoint, value) of each row, in order."""
    columns = "source_partition, source_offset, position, event_id, datapoint, value"
    return select(dsn, f"SELECT {columns} FROM tally.events ORDER BY 1, 2, 3")


def log_of(dsn: str) -> dict[str, tuple[Any, ...]]:
    """Return (state, attempts, error) by id."""
    rows = select(dsn, "SELECT txn_id, state, attempts, error FROM tally.txn_log")
    return {txn_id: tuple(rest) for txn_id, *rest in rows}
