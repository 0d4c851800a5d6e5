"""Databases that are filled from their changelog, on real RocksDB: written in another way, and the same in the end."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from faust.types import TP

from streams.errors import StoreUnavailableError
from tables.profiles import SpanKey, encode_kept
from tables.registry import ROWS_BUFFER
from tables.store import OFFSET_KEY, RESTORING_RECORDS_MIN, Store
from tests.support.stores import BLOCKS, ROWS, content, opened, recover, recovered, some_tables

ROWS_A_RECORD = 50
ROW_BYTES = 1_000
RECORDS = 5 * RESTORING_RECORDS_MIN
ENOUGH = range(RESTORING_RECORDS_MIN)
DIES = "tests.unit.tables.test_restoring"
"""This module, run as a program: recovers into the folder it is given, and kills itself once part of it is on the disk."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = rows_store(tmp_path)
    yield store
    store._dbs.clear()


def rows_store(home: Path) -> Store:
    store = some_tables(home).row_store
    assert store is not None
    return store


def record(offset: int, *, partition: int = 0) -> Any:
    """Return a record of a changelog; every eighth row is one that an earlier record had, as after a replay."""
    first = offset * ROWS_A_RECORD
    numbers = [number - ROWS_A_RECORD if number % 8 == 0 else number for number in range(first, first + ROWS_A_RECORD)]
    # Written by rising offset, and so by falling key: what a memtable must sort.
    keys = [b"u%d\0V" % (number % 7) + (10**9 - number).to_bytes(16, "big") for number in numbers]
    parts = [part for key, number in zip(keys, numbers, strict=True) for part in (key, b"%0*d" % (ROW_BYTES, number))]
    key = SpanKey(first, first + ROWS_A_RECORD - 1).encode()
    return recovered(ROWS, offset, key, encode_kept(parts), partition=partition)


def restore(store: Store, offsets: Sequence[int], *, partition: int = 0) -> None:
    """Apply records as Faust does, a buffer at a time."""
    for first in range(0, len(offsets), ROWS_BUFFER):
        recover(store, *(record(offset, partition=partition) for offset in offsets[first : first + ROWS_BUFFER]))


def complete(store: Store) -> None:
    """Do what Faust does when everything has been read."""
    asyncio.run(store.on_recovery_completed(set(), set()))


def is_for_restoring(store: Store, partition: int = 0) -> bool:
    """Say whether the database that is open now has memtables that are lists, from what RocksDB wrote down."""
    newest = max(store.partition_path(partition).glob("OPTIONS-*"), key=lambda path: int(path.name.split("-")[1]))
    return "VectorRepFactory" in newest.read_text(encoding="utf-8")


def expected(home: Path, offsets: Sequence[int]) -> dict[bytes, bytes]:
    """Return what a database holds that was never opened to restore."""
    plain = rows_store(home)
    plain._dbs[0] = plain.rocksdb_options.open(plain.partition_path(0))
    for offset in offsets:
        plain._restored.clear()
        recover(plain, record(offset))
    assert not is_for_restoring(plain)
    kept = content(plain)
    plain._dbs.clear()
    return kept


def test_a_restored_database_holds_what_an_ordinary_one_would(store: Store, tmp_path: Path) -> None:
    restore(store, range(RECORDS))
    assert is_for_restoring(store)
    plain = expected(tmp_path / "plain", range(RECORDS))
    assert content(store) == plain  # readable all the time, if slowly
    complete(store)
    assert not is_for_restoring(store)
    assert content(store) == plain


def test_an_ordinary_database_takes_over_what_was_restored_and_keeps_it(store: Store) -> None:
    """Through another opening and a compaction of everything."""
    restore(store, range(RECORDS))
    complete(store)
    recover(store, record(RECORDS))
    before = content(store)
    opened(store).flush()
    store._dbs.clear()
    opened(store).compact_range(None, None)
    assert content(store) == before and before[OFFSET_KEY] == b"%d" % RECORDS


def test_a_recovered_tombstone_deletes_while_restoring(store: Store) -> None:
    """Nobody sends one for a span; should it come, it must not bring anything back."""
    restore(store, range(RECORDS))
    gone = max(content(store))
    recover(store, recovered(ROWS, RECORDS, gone, None))
    complete(store)
    assert gone not in content(store)


def test_a_short_recovery_opens_nothing_anew(store: Store) -> None:
    """After a stop in order, or a rebalance, there is next to nothing to restore."""
    opened(store)
    complete(store)  # the first start ever
    restore(store, ENOUGH[:-1])
    assert not is_for_restoring(store)


def test_a_long_recovery_on_a_disk_that_was_kept_is_restored_too(store: Store) -> None:
    """After kill -9 whatever was in memory has to be read again."""
    opened(store)
    complete(store)
    restore(store, ENOUGH)
    assert is_for_restoring(store)
    complete(store)
    assert not is_for_restoring(store)


def test_a_recovery_counts_its_own_records_only(store: Store) -> None:
    opened(store)
    for _ in range(3):
        complete(store)
        restore(store, ENOUGH[:-1])
    assert not is_for_restoring(store)


def test_each_partition_is_for_itself(store: Store) -> None:
    for partition in (0, 1):
        opened(store, partition)
    complete(store)
    restore(store, ENOUGH, partition=1)
    assert [is_for_restoring(store, partition) for partition in (0, 1)] == [False, True]


def test_tables_of_blocks_are_never_opened_to_restore(tmp_path: Path) -> None:
    """Large values and few of them: there is nothing to win."""
    blocks = some_tables(tmp_path).block_store
    recover(blocks, *(recovered(BLOCKS, offset, b"k%d" % offset, b"") for offset in range(RECORDS)))
    assert not is_for_restoring(blocks)
    blocks._dbs.clear()


def test_a_partition_that_is_revoked_while_it_is_finished_stays_closed(store: Store) -> None:
    """Opened again it would hold the lock against whoever has it now."""

    async def revoked_meanwhile() -> None:
        finishing = asyncio.ensure_future(store.on_recovery_completed(set(), set()))
        await asyncio.sleep(0)  # the flush has begun
        store._dbs.pop(0)
        await finishing

    restore(store, range(RECORDS))
    before = content(store)
    asyncio.run(revoked_meanwhile())
    assert store.owned() == []
    assert opened(store) is not None and content(store) == before


def test_a_partition_that_was_revoked_while_a_record_was_read_stays_closed(store: Store) -> None:
    """Faust flushes what it has read as partitions go, reads one more perhaps, and flushes that once they are gone."""
    restore(store, ENOUGH)
    before = content(store)
    store._dbs.pop(0)
    late = [record(len(ENOUGH))]
    store.apply_changelog_batch(late, to_key=lambda key: key, to_value=lambda value: value)
    assert store.owned() == []
    assert opened(store) is not None and content(store) == before
    restore(store, [len(ENOUGH)])
    assert content(store)[OFFSET_KEY] == b"%d" % len(ENOUGH)


def test_a_disk_that_refuses_to_finish_is_told(store: Store) -> None:
    """Faust would swallow it, and a worker would be ready without its rows."""
    restore(store, range(RECORDS))
    shutil.rmtree(store.partition_path(0))
    with pytest.raises(StoreUnavailableError, match="could not flush"):
        complete(store)


def test_a_worker_killed_in_the_middle_of_a_recovery_recovers_again(tmp_path: Path) -> None:
    """What is on the disk then is a prefix of the changelog, and its offset key says which."""
    home = tmp_path / "killed"
    died = subprocess.run([sys.executable, "-m", DIES, str(home)], check=False, timeout=60)
    assert died.returncode == -signal.SIGKILL
    store = rows_store(home)
    reached = store.persisted_offset(TP(ROWS, 0))
    assert reached is not None and 0 < reached < 10 * RECORDS - 1
    assert content(store) == expected(tmp_path / "prefix", range(reached + 1))
    restore(store, range(reached + 1, reached + 1 + RECORDS))
    complete(store)
    assert content(store) == expected(tmp_path / "whole", range(reached + 1 + RECORDS))
    store._dbs.clear()


def die(home: Path) -> None:
    """Recover until RocksDB has written a file, go on a little, and end as by `kill -9`."""
    store = rows_store(home)
    for first in range(0, 10 * RECORDS, ROWS_BUFFER):
        restore(store, range(first, first + ROWS_BUFFER))
        if int(opened(store).property_value("rocksdb.num-files-at-level0")) > 0:
            restore(store, range(first + ROWS_BUFFER, first + 2 * ROWS_BUFFER))
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    die(Path(sys.argv[1]))
