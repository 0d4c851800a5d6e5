"""Keep tables in RocksDB: raw bytes, one block cache for all partitions, and the offset key in the batch it belongs to.

RocksDB's own write-ahead log is off, because the changelog is one: after a crash the store is an older, consistent prefix,
and recovery reads the rest. That holds only while state and offset key share a batch, so nothing else writes here.

A database that is being filled from its changelog is opened to be written and not to be read: its memtables are lists, and
RocksDB's own threads sort them. Before a worker is ready it is opened again, as it is used from then on.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from faust.stores import STORES
from faust.stores import rocksdb as faust_rocksdb
from rocksdict import (
    AccessType,
    BlockBasedOptions,
    Cache,
    DBCompactionStyle,
    DBCompressionType,
    MemtableFactory,
    Options,
    Rdict,
    WriteBatch,
    WriteOptions,
)

from streams.errors import NewerStateError, StoreUnavailableError, TallyError
from streams.state_format import refuse_newer
from tables.blocks import FORMAT, KEY_BYTES, PROGRESS, BlockKey
from tables.profiles import decode_span

SCHEME = "tally"
MEMTABLE_BYTES = 16 << 20
MEMTABLES_MAX = 3
SORTED_RUNS_MAX = 16
"""Files, or groups of them, that a scan may have to look into; with more of them RocksDB merges those of like size. Merged at
four, and into levels, rows cost half as much again once there are millions of them: docs/decisions/0019."""
RESTORING_MEMTABLE_BYTES = 4 << 20
"""Sorted while the next ones are filled; what is left at the end of a recovery, and waited for, is short."""
RESTORING_MEMTABLES_MAX = 8
RESTORING_JOBS_MAX = 8
"""RocksDB gives a quarter of them to flushes."""
RESTORING_FILES_MAX = 16
"""Files of a memtable each before compaction begins: the same bytes as when they are written in use."""
RESTORING_RECORDS_MIN = 16
"""Of one partition in one recovery: a span has up to 4,096 rows, and to open a database takes as long as to insert 10,000."""
MANIFEST_BYTES_MAX = 1
"""Every flush and compaction writes the manifest anew: it names the first and last key of each file, of erased users too."""
OPEN_FILES_MAX = 256
BLOOM_BITS = 10
DEFAULT_FAMILY = "default"
LOCK_HELD = ("While lock file", "lock hold by current process")
"""By another process; or by this one, which still compacts what was just revoked. Faust looks for 'lock' alone, which is in the
name of minute-blocks."""
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
        """Open a database to be read and written."""
        return self._open(path, self._options)

    def open_to_restore(self, path: Path) -> Rdict:
        """Open a database to be filled from its changelog: writing is cheap, and reading slow."""
        return self._open(path, self._restoring_options)

    def _open(self, path: Path, options: Callable[[], Options]) -> Rdict:
        # Named, or rocksdict takes the column family's options from the file that the last opening left: the shared cache is
        # not used, and RocksDB wraps the TTL filter found there into another, which removes every row at a compaction.
        families = {DEFAULT_FAMILY: options()}
        try:
            database = Rdict(str(path), options=options(), column_families=families, access_type=self._access)
        except Exception as error:  # rocksdict has no class of its own
            if any(text in str(error) for text in LOCK_HELD):
                raise  # Faust waits for whoever has it
            self._fail(unavailable(f"open {path.name}", error))
        database.set_write_options(without_log())
        return database

    def _options(self, *, bloom_bits: int = BLOOM_BITS) -> Options:
        options = Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_max_open_files(OPEN_FILES_MAX)
        options.set_write_buffer_size(MEMTABLE_BYTES)
        options.set_max_write_buffer_number(MEMTABLES_MAX)
        options.set_max_manifest_file_size(MANIFEST_BYTES_MAX)
        options.set_compression_type(DBCompressionType.lz4())
        options.set_compaction_style(DBCompactionStyle.universal())
        options.set_level_zero_file_num_compaction_trigger(SORTED_RUNS_MAX)
        blocks = BlockBasedOptions()
        if bloom_bits:
            blocks.set_bloom_filter(bloom_bits, block_based=False)
        blocks.set_block_cache(self._cache)
        blocks.set_cache_index_and_filter_blocks(True)
        options.set_block_based_table_factory(blocks)
        return options

    def _restoring_options(self) -> Options:
        options = self._options(bloom_bits=0)  # compaction makes them
        options.set_memtable_factory(MemtableFactory.vector())
        options.set_allow_concurrent_memtable_write(False)  # a list has no room for two writers
        options.set_write_buffer_size(min(RESTORING_MEMTABLE_BYTES, MEMTABLE_BYTES))
        options.set_max_write_buffer_number(RESTORING_MEMTABLES_MAX)
        options.set_max_background_jobs(RESTORING_JOBS_MAX)
        options.set_level_zero_file_num_compaction_trigger(RESTORING_FILES_MAX)
        options.set_compression_per_level([DBCompressionType.none(), DBCompressionType.lz4()])  # the first files go soon
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


def flush(database: Rdict) -> None:
    """Write what is in memory to the disk, on whatever thread; RocksDB works meanwhile, and so do others.

    Raises:
        StoreUnavailableError: the disk refuses.
    """
    try:
        database.flush()
    except Exception as error:  # rocksdict has no class of its own
        raise unavailable("flush", error) from error


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
        self._restoring: set[int] = set()
        self._restored: Counter[int] = Counter()

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

    def progress(self, partition: int) -> BlockKey | None:
        """Return the newest progress of a partition, its last key; None where there is none, or it is not owned.

        From the end, since the tombstones of those before it lie before it.
        """
        database = self.database(partition)
        if database is None:
            return None
        cursor = database.iter()
        cursor.seek_to_last()
        raw = cursor.key() if cursor.valid() else None
        key = BlockKey.decode(raw) if raw is not None and len(raw) == KEY_BYTES else None
        return key if key is not None and key.minute == PROGRESS else None

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
        """Apply recovered records, all of a partition and its offset key in one write. Applying twice changes nothing.

        What is of a partition that was revoked since is left out: opened for it, the database would stay open, and the
        partition seem owned. Should it come back, it is read on from its offset key.
        """
        records: dict[int, list[Any]] = {}
        for event in batch:
            if event.message.partition in self._dbs:
                records.setdefault(event.message.partition, []).append(event.message)
        for partition, messages in records.items():
            write = WriteBatch(raw_mode=True)
            try:
                for message in messages:
                    self._apply(write, message)
            except NewerStateError as error:  # Faust would take it for a failed recovery, and try for ever
                self._fail(error)
            write.put(OFFSET_KEY, str(max(message.offset for message in messages)).encode())
            self._prepare(partition, len(messages))
            try:
                write_batch(self._db_for_partition(partition), write)
            except StoreUnavailableError as error:
                self._fail(error)

    def _prepare(self, partition: int, records: int) -> None:
        """Open a database to be restored, once enough has come that it pays."""
        self._restored[partition] += records
        if self.packed and partition not in self._restoring and self._restored[partition] >= RESTORING_RECORDS_MIN:
            self._reopen(partition, restoring=True)

    def _open_for_partition(self, partition: int) -> Rdict:
        """Open the database of a partition; one that is new will most likely be restored."""
        path = self.partition_path(partition)
        return self._open(partition, restoring=self.packed and not path.exists())

    def _reopen(self, partition: int, *, restoring: bool) -> None:
        database = self._dbs.pop(partition, None)
        if database is not None:
            database.close()
        self._dbs[partition] = self._open(partition, restoring=restoring)

    def _open(self, partition: int, *, restoring: bool) -> Rdict:
        path = self.partition_path(partition)
        if restoring:
            self._restoring.add(partition)
            return self.rocksdb_options.open_to_restore(path)
        self._restoring.discard(partition)
        return self.rocksdb_options.open(path)

    async def on_recovery_completed(self, active_tps: set[Any], standby_tps: set[Any]) -> None:
        """Open what was restored as it is used from now on. Faust waits for it, then seeks, then says that it is ready."""
        self._restored.clear()
        await asyncio.gather(*map(self._end_restoring, sorted(self._restoring)))

    async def _end_restoring(self, partition: int) -> None:
        database = self.database(partition)
        if database is None:  # revoked
            return
        try:
            await asyncio.to_thread(flush, database)  # closing would do it too, one after the other and on the loop
        except StoreUnavailableError as error:
            self._fail(error)
        if self.database(partition) is database:  # not revoked meanwhile
            self._reopen(partition, restoring=False)

    def _apply(self, write: WriteBatch, message: Any) -> None:
        if message.value is None:
            write.delete(message.key)
        elif self.packed:
            for key, value in decode_span(message.value):
                write.put(key, value)
        else:
            refuse_newer(message.value, known=FORMAT[0], what="a block")  # nobody looks at it before a query does
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
