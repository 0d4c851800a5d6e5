"""Keep a worker's tables in memory behind the product's own store: only RocksDB itself is a model.

`tables.store.Store` runs as it is (recovery, scans, offset keys) on databases that are dicts. RocksDB writes no log of its
own here, so a killed process leaves an older prefix of its writes, each whole; the model keeps the writes since the last
flush to cut them there. A wiped disk is an empty one.
"""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

from tables.store import Store


class MemoryWrite:
    """A WriteBatch of rocksdict: puts and deletes that are applied together."""

    __slots__ = ("operations",)

    def __init__(self, raw_mode: bool = True) -> None:
        self.operations: list[tuple[bytes, bytes | None]] = []

    def put(self, key: bytes, value: bytes) -> None:
        self.operations.append((key, value))

    def delete(self, key: bytes) -> None:
        self.operations.append((key, None))


class Cursor:
    """An iterator of rocksdict over the keys as they were when it was made."""

    __slots__ = ("_at", "_data", "_keys")

    def __init__(self, data: dict[bytes, bytes]) -> None:
        self._data = data
        self._keys: list[bytes] = []
        self._at = 0

    def seek(self, low: bytes) -> None:
        self._keys = sorted([key for key in self._data if key >= low])
        self._at = 0

    def seek_to_last(self) -> None:
        self._keys = [max(self._data)] if self._data else []

    def valid(self) -> bool:
        return self._at < len(self._keys)

    def key(self) -> bytes:
        return self._keys[self._at]

    def value(self) -> bytes:
        return self._data[self._keys[self._at]]

    def next(self) -> None:
        self._at += 1


class Database:
    """The part of a rocksdict database that the product uses, and what a crash leaves of it."""

    def __init__(self) -> None:
        self.data: dict[bytes, bytes] = {}
        self._flushed: dict[bytes, bytes] = {}
        self._unflushed: list[MemoryWrite] = []

    def get(self, key: bytes) -> bytes | None:
        return self.data.get(key)

    def iter(self) -> Cursor:
        return Cursor(self.data)

    def write(self, write: MemoryWrite, options: object = None) -> None:
        self._apply(self.data, write)
        self._unflushed.append(write)

    def crash(self, rng: Random) -> None:
        """Lose the last writes: any number of those since the last flush."""
        for write in self._unflushed[: rng.randrange(len(self._unflushed) + 1)]:
            self._apply(self._flushed, write)
        self._unflushed = []
        self.data = dict(self._flushed)

    @staticmethod
    def _apply(data: dict[bytes, bytes], write: MemoryWrite) -> None:
        for key, value in write.operations:
            if value is None:
                data.pop(key, None)
            else:
                data[key] = value


Disk = dict[tuple[str, int], Database]
"""The databases of one worker by table and partition."""


class MemoryStore(Store):
    """The product's store on the databases of a disk."""

    def __init__(self, table: str, disk: Disk, *, packed: bool) -> None:
        self.packed = packed
        self._table = table
        self._disk = disk
        self._dbs: dict[int, Any] = {}
        self._restoring = set()
        self._restored = Counter()

    def _open_for_partition(self, partition: int) -> Any:
        return self._disk.setdefault((self._table, partition), Database())

    def _reopen(self, partition: int, *, restoring: bool) -> None:
        """Do nothing: a dict has no memtables."""

    def open(self, partition: int) -> None:
        """Open the database of an assigned partition."""
        self._db_for_partition(partition)

    def close(self, partition: int) -> None:
        """Close the database of a partition that went away."""
        self._dbs.pop(partition, None)


def no_options() -> None:
    """Stand for `without_log`: there are no write options to make."""


def unchanged(value: Any) -> Any:
    """Stand for the codecs that Faust hands to the store, which needs none."""
    return value
