"""The store on real RocksDB: a recovery that may repeat, an offset key that never runs ahead, retention by arrival."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from faust.types import TP
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rocksdict import Options, WriteBatch

from streams.topics import USER_TAGS
from tables.blocks import PROGRESS, BlockKey, OpenBucket
from tables.partitions import PartitionState
from tables.profiles import SpanKey, encode_kept
from tables.registry import StreamTables
from tables.store import (
    ARRIVAL_PREFIX,
    HOUR_MS,
    OFFSET_KEY,
    PartitionDatabases,
    SharedCache,
    Store,
    expire,
    note_arrival,
    write_batch,
)
from tables.trim import SAMPLE_ROWS, trim
from tests.support.stores import BLOCKS, ROWS, content, opened, recover, recovered, some_tables

T0_MS = 1_646_092_800_000
TRICKLE_S = 1_000


@pytest.fixture
def tables(tmp_path: Path) -> Iterator[StreamTables]:
    tables = some_tables(tmp_path)
    yield tables
    for store in (tables.block_store, tables.row_store):
        if store is not None:
            store._dbs.clear()


@pytest.fixture
def blocks(tables: StreamTables) -> Store:
    return tables.block_store


@pytest.fixture
def rows(tables: StreamTables) -> Store:
    assert tables.row_store is not None
    return tables.row_store


def block_key(minute: int, bucket: int, through: int) -> bytes:
    return BlockKey(minute, bucket, through).encode()


def span(*rows: tuple[bytes, bytes]) -> bytes:
    return encode_kept([part for row in rows for part in row])


# -- recovery


def test_recovered_blocks_are_put_and_tombstones_delete(blocks: Store) -> None:
    partial, final = block_key(1, 0, 99), block_key(1, 0, 4095)
    recover(blocks, recovered(BLOCKS, 0, partial, b"a"), recovered(BLOCKS, 1, final, b"b"), recovered(BLOCKS, 2, partial, None))
    assert content(blocks) == {final: b"b", OFFSET_KEY: b"2"}


def test_recovered_spans_are_taken_apart(rows: Store) -> None:
    one, two = (b"u\0V" + bytes(16), b"1"), (b"u\0V" + bytes(15) + b"\1", b"2")
    recover(rows, recovered(ROWS, 7, SpanKey(0, 1).encode(), span(one, two)))
    assert content(rows) == dict([one, two, (OFFSET_KEY, b"7")])


def test_recovering_the_same_records_again_changes_nothing(blocks: Store) -> None:
    records = [recovered(BLOCKS, offset, block_key(1, 0, offset), b"%d" % offset) for offset in range(5)]
    recover(blocks, *records)
    before = content(blocks)
    recover(blocks, *records[2:])
    assert content(blocks) == before


def test_the_offset_key_is_the_greatest_of_its_partition(tables: StreamTables, blocks: Store) -> None:
    recover(
        blocks,
        recovered(BLOCKS, 5, block_key(1, 0, 1), b"", partition=1),
        recovered(BLOCKS, 900, block_key(1, 0, 1), b"", partition=0),
        recovered(BLOCKS, 6, block_key(1, 0, 2), b"", partition=1),
    )
    assert [blocks.persisted_offset(TP(BLOCKS, partition)) for partition in (0, 1, 2)] == [900, 6, None]


def test_an_empty_buffer_writes_nothing(blocks: Store) -> None:
    recover(blocks)
    assert blocks.owned() == []


def test_state_survives_closing_and_the_offset_key_is_part_of_it(blocks: Store) -> None:
    recover(blocks, recovered(BLOCKS, 3, block_key(1, 0, 1), b"kept"))
    before = content(blocks)
    blocks._dbs.clear()
    opened(blocks)
    assert content(blocks) == before


def test_reopened_databases_keep_their_rows_when_they_are_compacted(rows: Store) -> None:
    """F3: a worker's second life on its disk lost rows hours later, at the first compaction of everything."""
    expected = {}
    for partition in range(3):
        many = tuple((b"user\0%d" % number, b"row %d" % number) for number in range(500))
        recover(rows, recovered(ROWS, 3, SpanKey(0, 499).encode(), span(*many), partition=partition))
        expected[partition] = content(rows, partition)
        opened(rows, partition).flush()
    for _ in range(2):
        rows._dbs.clear()
        for partition, before in expected.items():
            opened(rows, partition).compact_range(None, None)
            assert content(rows, partition) == before


def test_nothing_is_written_to_a_log_of_rocksdbs_own(blocks: Store, tmp_path: Path) -> None:
    """The changelog is the log: a second one would cost, and could bring back what is newer than the offset key."""
    recover(blocks, *(recovered(BLOCKS, offset, block_key(1, 0, offset), bytes(1000)) for offset in range(200)))
    logs = list(tmp_path.rglob("*.log"))
    assert logs and sum(path.stat().st_size for path in logs) == 0


def test_a_revoked_partition_is_not_opened_again_by_reading(blocks: Store) -> None:
    """Opening takes RocksDB's lock from the new owner's process, or from ourselves."""
    assert blocks.database(3) is None
    assert list(blocks.scan(3, b"", b"\xff")) == [] and blocks.keys_between(3, b"", b"\xff") == []
    assert blocks.owned() == []


def test_scans_take_the_lower_end_and_leave_the_upper(blocks: Store) -> None:
    recover(blocks, *(recovered(BLOCKS, number, key, key) for number, key in enumerate([b"a", b"b", b"c"])))
    assert blocks.keys_between(0, b"a", b"c") == [b"a", b"b"]
    assert list(blocks.scan(0, b"b", b"z")) == [(b"b", b"b"), (b"c", b"c")]


def test_all_partitions_of_all_tables_share_one_cache(blocks: Store, rows: Store) -> None:
    """Faust's default is 2 GiB for each of them."""
    opened(blocks, 0), opened(blocks, 1), opened(rows, 0)
    assert blocks.rocksdb_options._cache is rows.rocksdb_options._cache is SharedCache.cache


# -- retention by arrival


def arrive(store: Store, bucket: int, *, hour: int, minute: int = 5) -> None:
    """Store a final block and the progress of a bucket, in the hour of its arrival."""
    through = (bucket + 1) * 4096 - 1
    write = WriteBatch(raw_mode=True)
    for key in (block_key(minute, bucket, through), block_key(PROGRESS, bucket, through)):
        write.put(key, b"")
        note_arrival(write, key, T0_MS + hour * HOUR_MS)
    opened(store).write(write)


def buckets(store: Store) -> list[int]:
    keys = [key for key in content(store) if len(key) == 20]
    return sorted(block.bucket for block in map(BlockKey.decode, keys) if block.minute != PROGRESS)


def test_blocks_go_by_when_they_arrived_whatever_their_minutes_say(blocks: Store) -> None:
    """A13. One producer with a broken clock must not age out everybody else's data."""
    for bucket, (hour, minute) in enumerate([(0, 50_000_000), (0, 1), (5, 2), (30, 3)]):
        arrive(blocks, bucket, hour=hour, minute=minute)
    assert expire(blocks, 0, before_ms=T0_MS + 6 * HOUR_MS) == 2
    assert buckets(blocks) == [2, 3]


def test_the_bucket_that_was_open_at_the_horizon_stays(blocks: Store) -> None:
    for bucket in range(3):
        arrive(blocks, bucket, hour=0)
    expire(blocks, 0, before_ms=T0_MS + HOUR_MS)
    assert buckets(blocks) == [2]


def test_nothing_goes_before_its_hour_has_passed(blocks: Store) -> None:
    arrive(blocks, 0, hour=3)
    assert expire(blocks, 0, before_ms=T0_MS + 3 * HOUR_MS + HOUR_MS // 2) == 0
    assert expire(blocks, 9, before_ms=T0_MS + 100 * HOUR_MS) == 0


def test_expiring_again_removes_nothing_more_and_keeps_the_progress(blocks: Store) -> None:
    for bucket in range(3):
        arrive(blocks, bucket, hour=bucket)
    expire(blocks, 0, before_ms=T0_MS + 2 * HOUR_MS)
    before = content(blocks)
    assert expire(blocks, 0, before_ms=T0_MS + 2 * HOUR_MS) == 0
    assert content(blocks) == before
    assert any(BlockKey.decode(key).minute == PROGRESS for key in before if len(key) == 20)


def test_arrival_is_noted_by_recovery_too_from_when_the_record_was_written(blocks: Store) -> None:
    """Else a worker that lost its disk would keep everything for another horizon."""
    key = block_key(PROGRESS, 4, 20_000)
    recover(blocks, recovered(BLOCKS, 0, key, b"", at_s=(T0_MS + 7 * HOUR_MS) / 1000))
    assert content(blocks)[ARRIVAL_PREFIX + (T0_MS // HOUR_MS + 7).to_bytes(4, "big")] == (4).to_bytes(8, "big")


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 30), max_size=12).map(sorted), st.integers(0, 31))
def test_what_arrived_after_the_horizon_never_goes(blocks: Store, hours: list[int], horizon: int) -> None:
    opened(blocks).delete_range(b"", b"\xff" * 64)
    for bucket, hour in enumerate(hours):
        arrive(blocks, bucket, hour=hour)
    expire(blocks, 0, before_ms=T0_MS + horizon * HOUR_MS)
    assert {bucket for bucket, hour in enumerate(hours) if hour >= horizon} <= set(buckets(blocks))


# -- trimming profiles


def row_keys(user: bytes, count: int, *, kind: bytes = b"V") -> list[bytes]:
    return [user + b"\0" + kind + number.to_bytes(16, "big") for number in range(count)]


def put_rows(store: Store, keys: list[bytes]) -> list[bytes]:
    """Store rows; return them as they were written, keys and values in turn."""
    write = WriteBatch(raw_mode=True)
    for key in keys:
        write.put(key, b"v")
    opened(store).write(write)
    return [part for key in keys for part in (key, b"v")]


def test_trimming_keeps_the_newest_200_of_a_kind(rows: Store) -> None:
    """A3. Keys sort newest first."""
    keys = row_keys(b"hot", 450)
    assert trim(rows, 0, put_rows(rows, keys)) > 0
    assert sorted(content(rows)) == keys[:200]


def test_trimming_touches_no_other_user_and_no_other_kind(rows: Store) -> None:
    others = [*row_keys(b"ho", 300), *row_keys(b"hot", 300, kind=b"B"), *row_keys(b"hot2", 300), *row_keys(b"hot\xff", 300)]
    put_rows(rows, others)
    trim(rows, 0, put_rows(rows, row_keys(b"hot", 300)))
    assert sorted(content(rows)) == sorted([*others, *row_keys(b"hot", 200)])


def test_exactly_200_rows_stay(rows: Store) -> None:
    keys = row_keys(b"u", 200)
    assert trim(rows, 0, put_rows(rows, keys)) == 0
    assert sorted(content(rows)) == keys


def test_trimming_looks_at_the_first_row_and_then_at_a_sample(rows: Store) -> None:
    written = put_rows(rows, row_keys(b"hot", SAMPLE_ROWS + 300))
    cold = put_rows(rows, row_keys(b"cold", 1))
    assert trim(rows, 0, cold + written[: 2 * (SAMPLE_ROWS - 1)]) == 0
    assert trim(rows, 0, cold + written) == 1


def test_trimming_a_revoked_partition_does_nothing(rows: Store) -> None:
    assert trim(rows, 5, [b"u\0V" + bytes(16), b"v"]) == 0 and rows.owned() == []


# -- what is in memory of a partition


def test_a_new_epoch_begins_with_an_empty_bucket() -> None:
    state = PartitionState(0, USER_TAGS)
    state.open.minutes[5] = {("VIEW",): 1}
    state.dirty = True
    state.begin(3, 2 * 4096 + 7)
    assert (state.epoch, state.next, state.open.number, state.open.minutes, state.dirty) == (3, 8199, 2, {}, False)


def test_through_is_the_last_offset_that_the_open_bucket_holds() -> None:
    state = PartitionState(0, USER_TAGS)
    state.begin(1, 4096)
    assert state.through == 4095  # nothing yet: before the bucket's start
    state.next = 5000
    assert state.through == 4999
    state.next = 9000  # a hole passed the bucket's end
    assert state.through == 8191


def test_through_of_a_seeded_bucket_covers_what_it_was_seeded_with() -> None:
    state = PartitionState(0, USER_TAGS)
    state.begin(1, 4200)
    state.open.seed([], through=4299)
    assert state.through == 4299
    state.next = 4400
    assert state.through == 4399


# -- progress


def test_progress_is_found_without_a_walk_over_its_tombstones(tables: StreamTables, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trickle supersedes it each second, and each second somebody asks for it: a day of that is 86,400 tombstones."""
    counted: list[Options] = []
    usual = PartitionDatabases._options

    def with_statistics(self: PartitionDatabases) -> Options:
        options = usual(self)
        options.enable_statistics()
        counted.append(options)
        return options

    monkeypatch.setattr(PartitionDatabases, "_options", with_statistics)
    blocks, bucket = tables.block_store, OpenBucket(0, sums=1)
    database = opened(blocks)
    for through in range(TRICKLE_S):
        write = WriteBatch(raw_mode=True)
        for key, value in bucket.emit(through, stored=partial(blocks.keys_between, 0)):
            write.put(key, value) if value is not None else write.delete(key)
        write_batch(database, write)
    skipped = sum(skipped_keys(options) for options in counted)
    assert skipped <= 2 * TRICKLE_S, "one or two a second, and not each time all of them"
    assert blocks.progress(0) == BlockKey(PROGRESS, 0, TRICKLE_S - 1)
    assert sum(skipped_keys(options) for options in counted) - skipped <= 2
    assert blocks.keys_between(0, block_key(PROGRESS, 0, 0), block_key(PROGRESS, 1, 0)) == [
        block_key(PROGRESS, 0, TRICKLE_S - 1)
    ]
    assert sum(skipped_keys(options) for options in counted) - skipped >= TRICKLE_S - 1, "the figure tells a walk"


def skipped_keys(options: Options) -> int:
    """Return how many tombstones and older versions cursors have stepped over."""
    found = re.search(r"rocksdb\.number\.iter\.skip COUNT : (\d+)", options.get_statistics() or "")
    assert found
    return int(found[1])


def test_partition_without_progress_has_none(blocks: Store) -> None:
    """Neither blocks nor the store's own keys are taken for it; nor is a partition asked for that is another's."""
    assert blocks.progress(0) is None
    recover(blocks, recovered(BLOCKS, 0, block_key(7, 0, 99), b"a"))
    assert blocks.progress(0) is None
    recover(
        blocks, recovered(BLOCKS, 1, block_key(PROGRESS, 0, 99), b""), recovered(BLOCKS, 2, block_key(PROGRESS, 1, 5000), b"")
    )
    assert blocks.progress(0) == BlockKey(PROGRESS, 1, 5000)


def test_no_key_of_a_store_of_blocks_lies_behind_its_progress() -> None:
    """Of either stream: blocks of any minute before that of the progress, the offset key, the arrivals."""
    first = block_key(PROGRESS, 0, 0)
    assert max(block_key(PROGRESS - 1, 2**64 - 1, 2**64 - 1), OFFSET_KEY, ARRIVAL_PREFIX + b"\xff" * 4) < first
