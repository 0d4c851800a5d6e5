"""Ask a store of blocks for the newest versions of one bucket."""

from __future__ import annotations

from tables.blocks import KEY_BYTES, BlockKey, newest
from tables.store import Store

AFTER_ALL = b"\xff" * (KEY_BYTES + 1)


def versions_of(store: Store, partition: int, bucket: int) -> list[tuple[BlockKey, bytes]]:
    """Return the newest version of every minute of one bucket, progress included; scans all keys of the partition."""
    mine = (key for key in store.keys_between(partition, b"", AFTER_ALL) if len(key) == KEY_BYTES)
    best = newest(key for key in mine if BlockKey.decode(key).bucket == bucket)
    database = store.database(partition)
    return [] if database is None else [(BlockKey.decode(key), database.get(key)) for key in sorted(best.values())]
