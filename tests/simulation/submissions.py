"""Make submissions that are sent again, and say what must become of them, without the product's folds and rules."""

from __future__ import annotations

import struct
from random import Random
from typing import Any

import msgspec

from streams.topics import EVENTS
from tables.profiles import decode_span
from tables.store import OFFSET_KEY
from tests.simulation.checks import _compare, _recovered, best_of, totals_of_blocks
from tests.simulation.events import DEAD_SHARE, HOLE_SHARE, PARTITIONS, SourceRecord
from tests.support.sent_again import START_MS, WITHIN_MS, a_drawn_submission

INVERSE = (1 << 63) - 1
TIME_PREFIX = "2022-03-01T00:0"
START_AT_MS = 1_646_092_800_000
"""2022-03-01T00:00:00Z."""


def some_submissions(rng: Random, partition: int, count: int) -> list[SourceRecord]:
    """Return *count* records with rising offsets; a few users and ids, so that most are sent more than once."""
    records: list[SourceRecord] = []
    offset, now_ms = 0, START_MS
    for _ in range(count):
        if rng.random() < HOLE_SHARE:
            offset += rng.randrange(1, 6)
        now_ms += rng.choice((0, 1, 1_000, WITHIN_MS // 3, WITHIN_MS + 1)) if rng.random() < 0.3 else 1_000
        if rng.random() < DEAD_SHARE:
            record = SourceRecord(offset, rng.choice([b"{", None]), None)
        else:
            event = a_drawn_submission(rng) | {"user": rng.choice(("a", "b")), "id": rng.choice("12")}
            record = SourceRecord(offset, msgspec.json.encode(event), event)  # type: ignore[arg-type]
        record.timestamp = now_ms
        records.append(record)
        offset += 1
    return records


def firsts_of(records: list[SourceRecord]) -> set[int]:
    """Return the offsets of what counts."""
    came: dict[tuple[str, str], int] = {}
    firsts: set[int] = set()
    for record in records:
        event: Any = record.template
        if event is not None:
            key = event["user"], event["id"]
            if key not in came or came[key] < record.timestamp - WITHIN_MS:
                came[key] = record.timestamp
                firsts.add(record.offset)
    return firsts


def totals_of(records: list[SourceRecord]) -> dict[tuple[Any, ...], tuple[int, ...]]:
    """Return (count,) by cell."""
    totals: dict[tuple[Any, ...], tuple[int, ...]] = {}
    firsts = firsts_of(records)
    for record in records:
        event: Any = record.template
        if record.offset in firsts:
            for member in event["data"]:
                cell = (_at_ms(event) // 60_000, event["kind"], event["product"], member["key"])
                totals[cell] = (totals.get(cell, (0,))[0] + 1,)
    return totals


def rows_of(records: list[SourceRecord]) -> dict[bytes, bytes]:
    """Return the rows that the events must become: of first ones two, of duplicates one."""
    rows: dict[bytes, bytes] = {}
    firsts = firsts_of(records)
    for record in records:
        event: Any = record.template
        inverse = INVERSE - record.offset
        if record.offset in firsts:
            user, kept = event["user"].encode(), [event[name] for name in EVENTS.kept]
            rows[user + b"\0T" + struct.pack(">QQ", INVERSE - _at_ms(event), inverse)] = msgspec.msgpack.encode(
                [*kept, event["time"]]
            )
            place = struct.pack(">QQ", INVERSE - record.timestamp, inverse)
            rows[b"\xfe" + user + b"\0" + event["id"].encode() + place] = b""
        elif event is not None:
            rows[b"\xfe\xff" + struct.pack(">Q", inverse)] = b""
    return rows


def _at_ms(event: dict[str, Any]) -> int:
    minute = int(event["time"].removeprefix(TIME_PREFIX)[0])
    return START_AT_MS + minute * 60_000


def check_submissions(world: Any) -> None:
    """Compare changelogs, stores and disks with the source, for each partition."""
    blocks, rows = world.subject.blocks, world.subject.rows
    for partition in range(PARTITIONS):
        records = world.kafka.source[partition]
        expected_totals, expected_rows = totals_of(records), rows_of(records)
        best = {block: value for block, (_, value) in best_of(world.kafka.logs[blocks, partition].entries).items()}
        _compare(world, f"blocks in the changelog of {partition}", totals_of_blocks(best, sums=0), expected_totals)
        _compare(world, f"rows in the changelog of {partition}", _data(_rows_in(world, rows, partition)), expected_rows)
        for worker in world.workers:
            found = _recovered(worker.disk.get((EVENTS.rows_table, partition)), world.kafka.logs[rows, partition], packed=True)
            _compare(world, f"rows on disk {worker.number} of {partition}", _data(found), expected_rows)


def _rows_in(world: Any, topic: str, partition: int) -> dict[bytes, bytes]:
    return {
        key: value for entry in world.kafka.logs[topic, partition].entries for key, value in decode_span(entry.value or b"")
    }


def _data(rows: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """Return the rows but for what a store or an observer notes beside them."""
    return {key: value for key, value in rows.items() if key != OFFSET_KEY and not key.startswith(b"\xff")}
