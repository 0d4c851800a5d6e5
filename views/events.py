"""Say where one event is, by its position or by its user and time: waiting, counted in which block, or nowhere.

No payload: an answer holds positions, minutes and what the question held. Only what is stored counts, as in every view.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from itertools import islice
from typing import Any

from faust.types import TP

from streams.errors import IncompleteAnswerError
from streams.event_time import MINUTE_MS, format_minute
from streams.topics import BUCKET_OFFSETS
from tables.blocks import KEY_BYTES, PROGRESS, BlockKey
from tables.duplicates import duplicate_key
from tables.erasures import erased_before, offset_of
from tables.profiles import INVERSE, NEWEST_MAX, ORDER, RowCodec
from tables.registry import StreamTables
from tables.store import Store
from views.queries import EventAt, EventOf

STEPS_MAX = 500
"""Keys looked at between two awaits, about 1 ms: the agent shares the loop."""
SLICES_MAX = 100
BLOCKS_SHOWN_MAX = 100
EVENTS_SHOWN_MAX = 100
"""Of one user, kind and millisecond."""
Found = dict[str, Any]


def progress_of(tables: StreamTables, partition: int) -> Found:
    """Return how far a partition is counted, and where its log ends; None for an end that no fetch has told yet."""
    progress = tables.block_store.progress(partition)
    counted = 0 if progress is None else progress.through + 1
    end: int | None = tables.blocks.app.consumer.highwater(TP(tables.stream.topic, partition))
    return {"partition": partition, "counted": counted, "log_end": end, "lag": None if end is None else max(0, end - counted)}


async def find_at(tables: StreamTables, query: EventAt) -> Found:
    """Return what this worker knows of a position of a partition that it owns.

    Raises:
        IncompleteAnswerError: the partition was taken away meanwhile.
    """
    found = progress_of(tables, query.partition)
    bucket = query.offset // BUCKET_OFFSETS
    throughs: dict[int, int] = {}
    whole = True
    if query.offset < found["counted"]:
        throughs, whole = await _throughs(tables.block_store, query.partition, bucket)
    blocks = sorted((minute, through) for minute, through in throughs.items() if through >= query.offset)
    shown = {"blocks": blocks[:BLOCKS_SHOWN_MAX], "blocks_whole": whole and len(blocks) <= BLOCKS_SHOWN_MAX}
    return found | shown | ({"duplicate": _is_duplicate(tables, query)} if tables.stream.id else {})


def _is_duplicate(tables: StreamTables, query: EventAt) -> bool:
    """Say whether a stored row tells that the record is a duplicate; it may be there a moment before its block."""
    assert tables.row_store is not None  # kept wherever duplicates are told
    key = duplicate_key(query.offset)
    return bool(tables.row_store.keys_between(query.partition, key, key + b"\0"))


async def _throughs(store: Store, partition: int, bucket: int) -> tuple[dict[int, int], bool]:
    """Return the greatest `through` by minute of one bucket, and whether all keys were looked at."""
    throughs: dict[int, int] = {}
    low = BlockKey(0, bucket, 0).encode()
    for _ in range(SLICES_MAX):
        following = _look(store, (partition, bucket), low, throughs)
        if following is None:
            return throughs, True
        low = following
        await asyncio.sleep(0)
    return throughs, False


def _look(store: Store, place: tuple[int, int], low: bytes, throughs: dict[int, int]) -> bytes | None:
    """Skip from minute to minute, noting the blocks of (partition, bucket); return where to go on, None at the end."""
    partition, bucket = place
    database = store.database(partition)
    if database is None:
        raise IncompleteAnswerError(f"partition {partition} was taken away")
    cursor = database.iter()
    cursor.seek(low)
    for _ in range(STEPS_MAX):
        raw = cursor.key() if cursor.valid() else None
        if raw is None:
            return None
        if len(raw) != KEY_BYTES:  # the store's own keys
            cursor.next()
            continue
        key = BlockKey.decode(raw)
        if key.minute == PROGRESS:
            return None
        if key.bucket == bucket:
            throughs[key.minute] = key.through  # ascending: the last is the greatest
            cursor.next()
        else:
            cursor.seek(BlockKey(key.minute + (key.bucket > bucket), bucket, 0).encode())
    return bytes(cursor.key()) if cursor.valid() else None


def find_of(tables: StreamTables, codec: RowCodec, query: EventOf, partitions: Iterable[int]) -> list[Found]:
    """Return, for each owned partition, how far it is counted and where it has events of that user and millisecond."""
    return [progress_of(tables, partition) | _rows_at(tables, codec, query, partition) for partition in partitions]


def _rows_at(tables: StreamTables, codec: RowCodec, query: EventOf, partition: int) -> Found:
    store = tables.row_store
    assert store is not None
    events: list[Found] = []
    complete = True
    erased = erased_before(store.database(partition), query.user)
    for kind in tables.stream.kinds:
        prefix = codec.prefix(query.user, kind)
        at = prefix + (INVERSE - query.at_ms).to_bytes(8, "big")
        newer = sum(1 for _ in islice(store.scan(partition, prefix, at), NEWEST_MAX))
        complete = complete and newer < NEWEST_MAX  # older rows may have been trimmed
        rows = islice(store.scan(partition, at, at + b"\xff" * 9), EVENTS_SHOWN_MAX)
        events += [_event_at(tables, query, partition, key) for key, _ in rows if _is_shown(key, prefix, erased)]
    return {"events": events, "complete": complete}


def _is_shown(key: bytes, prefix: bytes, erased: int) -> bool:
    return len(key) == len(prefix) + ORDER.size and offset_of(key) >= erased


def _event_at(tables: StreamTables, query: EventOf, partition: int, key: bytes) -> Found:
    """Return the position of a row and the newest stored block that holds it; `through` is None where there is none."""
    offset = INVERSE - int.from_bytes(key[-8:], "big")
    minute, bucket = query.at_ms // MINUTE_MS, offset // BUCKET_OFFSETS
    low, high = (BlockKey(minute, number, 0).encode() for number in (bucket, bucket + 1))
    newest = max(tables.block_store.keys_between(partition, low, high), default=None)
    through = -1 if newest is None else BlockKey.decode(newest).through
    return {"partition": partition, "offset": offset, "minute": minute, "through": through if through >= offset else None}


def format_at(query: EventAt, found: Found) -> Found:
    """Return the answer for a position."""
    state = "counted" if query.offset < found["counted"] else "waiting"
    if state == "waiting" and found["log_end"] is not None and query.offset >= found["log_end"]:
        state = "beyond_end"
    blocks = [{"minute": format_minute(minute), "through": through} for minute, through in found["blocks"]]
    return {
        "state": state,
        "partition": query.partition,
        "offset": query.offset,
        "bucket": query.offset // BUCKET_OFFSETS,
        "counted": found["counted"],
        "log_end": found["log_end"],
        "lag": found["lag"],
        "blocks": blocks,
        "complete": found["blocks_whole"],
        **{name: found[name] for name in ("duplicate",) if name in found},
    }


def format_of(query: EventOf, found: list[Found]) -> Found:
    """Return the answer for a user and an instant."""
    counted = {part["partition"]: part["counted"] for part in found}
    events = sorted((event for part in found for event in part["events"]), key=lambda event: -event["offset"])
    waiting = any(event["offset"] >= counted[event["partition"]] for event in events)
    state = "waiting" if waiting else "counted"
    if not events:
        state = "waiting" if any(part["lag"] != 0 for part in found) else "not_found"
    shown = [
        {**event, "bucket": event["offset"] // BUCKET_OFFSETS, "minute": format_minute(event["minute"])} for event in events
    ]
    places = [{name: part[name] for name in ("partition", "counted", "log_end", "lag")} for part in found]
    complete = all(part["complete"] for part in found)
    return {"state": state, "events": shown, "partitions": places, "complete": complete}
