"""What an open bucket sends obeys the law: every record is a pure function of its key, whoever sends it and how often.

The store is a dict here; a life of a worker is one `OpenBucket` that folds from the bucket's start and sends at cuts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from random import Random

from hypothesis import given

from streams.codecs import Codec
from streams.topics import BUCKET_OFFSETS, USER_TAGS
from tables.blocks import PROGRESS, BlockKey, Cells, OpenBucket, Record, decode_block, encode_block, newest
from tables.fold import Fold
from tests.support.builders import a_record
from tests.support.strategies import randoms

NUMBER = 3
BASE = NUMBER * BUCKET_OFFSETS
FOLD = Fold(Codec(USER_TAGS), rows=None)
POOL = [
    a_record(time=f"2022-03-01T00:0{minute}:59.999Z", origin=origin, price=price, action=action)
    for minute in range(3)
    for origin, price, action in (("a", 400, "BUY"), ("b", -7, "VIEW"), ("a", 2**31 - 1, "VIEW"))
] + [b"not an event"]


class Store(dict[bytes, bytes]):
    """A changelog applied to a table."""

    def between(self, first: bytes, second: bytes) -> list[bytes]:
        return [key for key in sorted(self) if first <= key < second]

    def apply(self, records: Iterable[Record]) -> None:
        for key, value in records:
            if value is None:
                self.pop(key, None)
            else:
                self[key] = value

    def view(self) -> dict[int, bytes]:
        """Return what a reader sees: the newest version of each minute."""
        return {minute: self[key] for (minute, _), key in newest(self).items() if minute != PROGRESS}

    def progress(self) -> int:
        return max(BlockKey.decode(key).through for (minute, _), key in newest(self).items() if minute == PROGRESS)


def some_values(random: Random) -> tuple[bytes, ...]:
    return tuple(random.choice(POOL[random.choice((0, 0, 6)) :]) for _ in range(random.randint(1, 40)))


def some_cuts(random: Random, size: int) -> list[int]:
    """Return where a life sends: after how many values, rising; twice at one place, where nothing arrived in between."""
    return sorted(random.choices(range(1, size + 1), k=random.randint(0, 5)))


@lru_cache(maxsize=1000)
def blocks_of(values: tuple[bytes, ...]) -> dict[int, bytes]:
    """Return the bytes of each minute's block, folded in one go: what every other way must give."""
    minutes: dict[int, Cells] = {}
    FOLD.fold(values, BASE, minutes, [])
    return {minute: encode_block(cells, sums=1) for minute, cells in minutes.items()}


def live(bucket: OpenBucket, values: tuple[bytes, ...], cuts: Sequence[int], store: Store, *, start: int = 0) -> list[Record]:
    """Fold from *start* on, send at each cut and, when all is folded, the bucket's end; return all that was sent."""
    sent: list[Record] = []
    for cut in (*cuts, None):
        FOLD.fold(values[start:cut], BASE + start, bucket.minutes, [])
        start = len(values) if cut is None else cut
        through = bucket.end - 1 if cut is None else BASE + cut - 1
        records = bucket.emit(through, stored=store.between)
        store.apply(records)
        sent += records
    return sent


def some_lives(random: Random, values: tuple[bytes, ...], store: Store) -> list[Record]:
    """Return what several workers sent, one after another, each killed somewhere but the last; each re-reads the bucket."""
    sent: list[Record] = []
    for last in (*[False] * random.randint(0, 2), True):
        bucket = OpenBucket(NUMBER, sums=1)
        cuts = some_cuts(random, len(values))
        if last:
            return sent + live(bucket, values, cuts, store)
        folded = 0
        for cut in cuts:
            FOLD.fold(values[folded:cut], BASE + folded, bucket.minutes, [])
            folded = cut
            records = bucket.emit(BASE + cut - 1, stored=store.between)
            store.apply(records)
            sent += records
            assert store.view() == blocks_of(values[: store.progress() - BASE + 1])
    return sent


@given(randoms)
def test_equal_key_means_equal_bytes_whatever_the_schedule(random: Random) -> None:
    """A10: the law. Re-sending, re-ordering, a zombie and compaction are harmless because of it."""
    values = some_values(random)
    sent = some_lives(random, values, Store()) + some_lives(random, values, Store())
    for key, value in sent:
        minute, bucket, through = BlockKey.decode(key)
        assert bucket == NUMBER
        if minute != PROGRESS and value is not None:
            assert value == blocks_of(values[: through - BASE + 1])[minute]


@given(randoms)
def test_kills_and_replays_leave_one_version_of_each_minute_and_one_progress(random: Random) -> None:
    """A10: superseded versions are tombstoned and the newest never is; on the way every view is that of its progress."""
    values, store = some_values(random), Store()
    some_lives(random, values, store)
    assert store.view() == blocks_of(values)
    assert len(store) == len(blocks_of(values)) + 1
    assert store.progress() == BASE + BUCKET_OFFSETS - 1


@given(randoms)
def test_replay_from_the_start_changes_nothing(random: Random) -> None:
    """A10: a commit is rounded down to the bucket's start, so every crash replays."""
    values, store = some_values(random), Store()
    live(OpenBucket(NUMBER, sums=1), values, some_cuts(random, len(values)), store)
    before = dict(store)
    live(OpenBucket(NUMBER, sums=1), values, some_cuts(random, len(values)), store)
    assert {key: value for key, value in store.items() if key in before} == before
    assert store.view() == blocks_of(values)


@given(randoms)
def test_any_order_of_arrival_and_compaction_leave_the_newest(random: Random) -> None:
    """A9: two writers' records may mix in any order; compaction keeps the last record a key, tombstones too."""
    values = some_values(random)
    sent = some_lives(random, values, Store()) + some_lives(random, values, Store())
    random.shuffle(sent)
    store = Store()
    store.apply(dict(sent).items())  # last write a key: what compaction leaves
    assert store.view() == blocks_of(values)
    assert store.progress() == BASE + BUCKET_OFFSETS - 1


@given(randoms)
def test_bucket_seeded_from_stored_versions_equals_one_folded_whole(random: Random) -> None:
    """A19: when the source has lost the bucket's beginning, what was stored of it stands in, to the byte."""
    values, store = some_values(random), Store()
    kept = random.randint(1, len(values))
    first = OpenBucket(NUMBER, sums=1)
    for cut in (*(cut for cut in some_cuts(random, len(values)) if cut < kept), kept):
        first.minutes.clear()
        FOLD.fold(values[:cut], BASE, first.minutes, [])
        store.apply(first.emit(BASE + cut - 1, stored=store.between))
    seeded = OpenBucket(NUMBER, sums=1)
    versions = [BlockKey.decode(key) for (minute, _), key in newest(store).items() if minute != PROGRESS]
    seeded.seed([(key, decode_block(store[key.encode()])) for key in versions], through=store.progress())
    assert seeded.counted == BASE + kept
    live(seeded, values, [cut for cut in some_cuts(random, len(values)) if cut > kept], store, start=kept)
    assert store.view() == blocks_of(values)
    assert len(store) == len(blocks_of(values)) + 1


def test_unchanged_minute_is_sent_again_only_at_the_buckets_end() -> None:
    """A quiet minute would be written once a second for as long as its bucket is open."""
    bucket, store = OpenBucket(NUMBER, sums=1), Store()
    FOLD.fold([POOL[0]], BASE, bucket.minutes, [])
    minute = next(iter(bucket.minutes))
    sent = [bucket.emit(BASE + at, stored=store.between) for at in (0, 1)] + [bucket.emit(bucket.end - 1, stored=store.between)]
    minutes = [[BlockKey.decode(key).minute for key, value in records if value is not None] for records in sent]
    assert minutes == [[minute, PROGRESS], [PROGRESS], [minute, PROGRESS]]


def test_sum_that_does_not_change_is_still_a_change() -> None:
    """Two events whose prices cancel leave the sum as it was; the count tells them."""
    bucket, store = OpenBucket(NUMBER, sums=1), Store()
    FOLD.fold([a_record(price=0)], BASE, bucket.minutes, [])
    store.apply(bucket.emit(BASE, stored=store.between))
    FOLD.fold([a_record(price=5), a_record(price=-5)], BASE + 1, bucket.minutes, [])
    store.apply(bucket.emit(BASE + 2, stored=store.between))
    assert decode_block(next(iter(store.view().values()))).totals({}) == (3, 0)


def test_tombstones_follow_their_successor() -> None:
    """Between the two a reader would find no version at all."""
    bucket, store = OpenBucket(NUMBER, sums=1), Store()
    for at in range(3):
        FOLD.fold([POOL[0]], BASE + at, bucket.minutes, [])
        records = bucket.emit(BASE + at, stored=store.between)
        seen: set[int] = set()
        for key, value in records:
            minute = BlockKey.decode(key).minute
            assert (value is not None) == (minute not in seen)
            seen.add(minute)
        store.apply(records)


def test_sending_twice_at_one_offset_keeps_what_was_sent() -> None:
    """The timer of partial blocks may fire just after the bucket's end: a tombstone for its own key would delete the final."""
    bucket, store = OpenBucket(NUMBER, sums=1), Store()
    FOLD.fold(POOL, BASE, bucket.minutes, [])
    for _ in range(2):
        store.apply(bucket.emit(bucket.end - 1, stored=store.between))
        assert store.view() == blocks_of(tuple(POOL))
        assert store.progress() == bucket.end - 1


def test_next_bucket_supersedes_the_progress_of_the_one_before() -> None:
    """Progress is one per partition; one left over for each bucket would grow for ever."""
    store = Store()
    for number in (NUMBER, NUMBER + 1, NUMBER + 300):
        bucket = OpenBucket(number, sums=1)
        FOLD.fold([POOL[0]], number * BUCKET_OFFSETS, bucket.minutes, [])
        store.apply(bucket.emit(bucket.end - 1, stored=store.between))
    keys = [BlockKey.decode(key) for key in store]
    assert [key.through for key in keys if key.minute == PROGRESS] == [(NUMBER + 301) * BUCKET_OFFSETS - 1]
    assert len([key for key in keys if key.minute != PROGRESS]) == 3


def test_bucket_without_events_sends_its_progress() -> None:
    """A partition of dead letters only must still commit."""
    bucket = OpenBucket(NUMBER, sums=1)
    FOLD.fold([b"not an event", None], BASE, bucket.minutes, [])
    assert bucket.emit(BASE + 1, stored=Store().between) == [(BlockKey(PROGRESS, NUMBER, BASE + 1).encode(), b"")]


def test_progress_on_its_way_is_superseded_by_the_next_bucket() -> None:
    """Deliveries overlap: the first version of a bucket may be sent before the last of the one before is stored."""
    store, first = Store(), OpenBucket(NUMBER, sums=1)
    on_its_way = first.emit(first.end - 1, stored=store.between)
    second = first.following(NUMBER + 1)
    assert (second.minutes, second.counted) == ({}, 0)
    records = second.emit(first.end, stored=store.between)
    for sent in (on_its_way, records):
        store.apply(sent)
    assert [BlockKey.decode(key) for key in store] == [BlockKey(PROGRESS, NUMBER + 1, first.end)]


def test_what_lies_before_the_last_version_sent_is_not_looked_at_again() -> None:
    """Only tombstones are there, one a second of a trickle, until RocksDB compacts them away days later."""
    asked: list[tuple[bytes, bytes]] = []
    store, bucket = Store(), OpenBucket(NUMBER, sums=1)

    def stored(low: bytes, high: bytes) -> list[bytes]:
        asked.append((low, high))
        return store.between(low, high)

    for number in range(NUMBER, NUMBER + 3):
        for through in (number * BUCKET_OFFSETS, (number + 1) * BUCKET_OFFSETS - 1):
            store.apply(bucket.emit(through, stored=stored))
        bucket = bucket.following(number + 1)
    assert asked[0][0] == BlockKey(PROGRESS, 0, 0).encode(), "an earlier life may have left anything"
    assert [low for low, _ in asked[1:]] == [high for _, high in asked[:-1]]
    assert len(store) == 1
