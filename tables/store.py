"""Keep tables in RocksDB: raw bytes, one block cache for all partitions, and the offset key in the batch it belongs to.

RocksDB's own write-ahead log is off, because the changelog is one: after a crash the store is an older, consistent prefix,
and recovery reads the rest. That holds only while state and offset key share a batch, so nothing else writes here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from faust.stores import STORES
from faust.stores import rocksdb as faust_rocksdb
from rocksdict import AccessType, BlockBasedOptions, Cache, DBCompressionType, Options, Rdict, WriteBatch, WriteOptions

from streams.errors import StoreUnavailableError, TallyError
from tables.blocks import KEY_BYTES, PROGRESS, BlockKey
from tables.profiles import decode_span

SCHEME = "tally"
MEMTABLE_BYTES = 16 << 20
MEMTABLES_MAX = 3
OPEN_FILES_MAX = 256
BLOOM_BITS = 10
DEFAULT_FAMILY = "default"
LOCK_HELD = "While lock file"
"""Faust looks for 'lock' alone, which is in the name of minute-blocks."""
OFFSET_KEY = b"__faust\0offset__"
ARRIVAL_PREFIX = b"\xfearrival"
"""Local bookkeeping of when buckets arrived; no block's key has its length."""
HOUR_MS = 3_600_000
Fail = Callable[[TallyError], NoReturn]


class SharedCache:
    """The one block cache; made by the first table, sized by its settings."""

    cache: Cache | None = None

    @classmethod
    def of(cls, size_bytes: int) -> Cache:
        if cls.cache is None:
            cls.cache = Cache(size_bytes)
        return cls.cache


def reraise(error: TallyError) -> NoReturn:
    """Fail where nobody else is named to be told."""
    raise error


class PartitionDatabases(faust_rocksdb.RocksDBOptions):
    """How the database of one partition is opened."""

    def __init__(self, *, cache_bytes: int, ttl_s: int, fail: Fail) -> None:
        super().__init__()
        self._fail = fail
        self._cache = SharedCache.of(cache_bytes)
        self._access = AccessType.with_ttl(ttl_s) if ttl_s else AccessType.read_write()

    def open(self, path: Path, *, read_only: bool = False) -> Rdict:
        # Named, or rocksdict takes the column family's options from the file that the last opening left: the shared cache is
        # not used, and RocksDB wraps the TTL filter found there into another, which removes every row at a compaction.
        families = {DEFAULT_FAMILY: self._options()}
        try:
            database = Rdict(str(path), options=self._options(), column_families=families, access_type=self._access)
        except Exception as error:  # rocksdict has no class of its own
            if LOCK_HELD in str(error):
                raise  # Faust waits for whoever has it
            self._fail(unavailable(f"open {path.name}", error))
        database.set_write_options(without_log())
        return database

    def _options(self) -> Options:
        options = Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_max_open_files(OPEN_FILES_MAX)
        options.set_write_buffer_size(MEMTABLE_BYTES)
        options.set_max_write_buffer_number(MEMTABLES_MAX)
        options.set_compression_type(DBCompressionType.lz4())
        blocks = BlockBasedOptions()
        blocks.set_bloom_filter(BLOOM_BITS, block_based=False)
        blocks.set_block_cache(self._cache)
        blocks.set_cache_index_and_filter_blocks(True)
        options.set_block_based_table_factory(blocks)
        return options


def unavailable(what: str, error: Exception) -> StoreUnavailableError:
    """Return the error of a disk that refuses, in one line."""
    return StoreUnavailableError(f"rocksdb could not {what}: {str(error).splitlines()[0]}; free the disk, or look at it")


def write_batch(database: Rdict, batch: WriteBatch) -> None:
    """Write a batch, whole or not at all.

    Raises:
        StoreUnavailableError: the disk refuses.
    """
    try:
        database.write(batch, without_log())
    except Exception as error:  # rocksdict has no class of its own
        raise unavailable("write", error) from error


def without_log() -> WriteOptions:
    """Return write options for everything here: no write-ahead log."""
    options = WriteOptions()
    options.disable_wal = True
    return options


class Store(faust_rocksdb.Store):
    """Faust's RocksDB store, with recovery that takes packed records apart and keeps the offset key with them.

    Options of the table: `packed` (values are spans of rows), `ttl_s` (rows go so long after they were written; 0: never),
    `cache_bytes`, `fail` (told when the disk refuses outside the protocol; Faust would take it for a lock, or print a trace).
    """

    def __init__(self, url: Any, app: Any, table: Any, *, options: Any = None, **kwargs: Any) -> None:
        super().__init__(url, app, table, **kwargs)
        options = dict(options or {})
        self.packed: bool = options["packed"]
        self._fail: Fail = options["fail"]
        self.rocksdb_options = PartitionDatabases(cache_bytes=options["cache_bytes"], ttl_s=options["ttl_s"], fail=self._fail)

    def database(self, partition: int) -> Rdict | None:
        """Return the database of a partition that this worker owns; never open one that was revoked (it locks)."""
        return self._dbs.get(partition)

    def owned(self) -> list[int]:
        """Return the partitions whose databases are open."""
        return sorted(self._dbs)

    def keys_between(self, partition: int, low: bytes, high: bytes) -> list[bytes]:
        """Return the keys in [low, high), ascending; nothing for a partition that is not owned."""
        return [cursor.key() for cursor in self._cursor(partition, low, high)]

    def scan(self, partition: int, low: bytes, high: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield keys and values in [low, high). Exhaust it or drop it before the next await: it pins the database."""
        for cursor in self._cursor(partition, low, high):
            yield cursor.key(), cursor.value()

    def _cursor(self, partition: int, low: bytes, high: bytes) -> Iterator[Any]:
        database = self.database(partition)
        if database is None:
            return
        cursor = database.iter()
        cursor.seek(low)
        while cursor.valid() and cursor.key() < high:
            yield cursor
            cursor.next()

    def apply_changelog_batch(self, batch: Iterable[Any], to_key: Callable[..., Any], to_value: Callable[..., Any]) -> None:
        """Apply recovered records, all of a partition and its offset key in one write. Applying twice changes nothing."""
        writes: dict[int, WriteBatch] = {}
        last: dict[int, int] = {}
        for event in batch:
            message = event.message
            write = writes.setdefault(message.partition, WriteBatch(raw_mode=True))
            last[message.partition] = max(last.get(message.partition, -1), message.offset)
            self._apply(write, message)
        for partition, write in writes.items():
            write.put(OFFSET_KEY, str(last[partition]).encode())
            try:
                write_batch(self._db_for_partition(partition), write)
            except StoreUnavailableError as error:
                self._fail(error)

    def _apply(self, write: WriteBatch, message: Any) -> None:
        if message.value is None:
            write.delete(message.key)
        elif self.packed:
            for key, value in decode_span(message.value):
                write.put(key, value)
        else:
            write.put(message.key, message.value)
            if len(message.key) == KEY_BYTES:
                note_arrival(write, message.key, int(message.timestamp * 1000))


def note_arrival(write: WriteBatch, key: bytes, now_ms: int) -> None:
    """Remember in which hour a bucket's progress arrived, so that retention can go by arrival."""
    minute, bucket, _ = BlockKey.decode(key)
    if minute == PROGRESS:
        write.put(ARRIVAL_PREFIX + (now_ms // HOUR_MS).to_bytes(4, "big"), bucket.to_bytes(8, "big"))


def expire(store: Store, partition: int, *, before_ms: int) -> int:
    """Delete the blocks of buckets that had arrived before an instant; return how many. Local: the changelog has its own.

    The bucket that was open at that instant stays, and so does everything after it.
    """
    database = store.database(partition)
    last_hour = ARRIVAL_PREFIX + max(0, before_ms // HOUR_MS).to_bytes(4, "big")
    hours = list(store.scan(partition, ARRIVAL_PREFIX, last_hour))
    if database is None or not hours:
        return 0
    first_kept = int.from_bytes(hours[-1][1], "big")
    expired = [
        key
        for key in store.keys_between(partition, b"", ARRIVAL_PREFIX)
        if len(key) == KEY_BYTES and BlockKey.decode(key).bucket < first_kept
    ]
    write = WriteBatch(raw_mode=True)
    for key in (*expired, *(key for key, _ in hours[:-1])):
        write.delete(key)
    database.write(write, without_log())
    return len(expired)


STORES.aliases[SCHEME] = f"{__name__}:{Store.__qualname__}"
