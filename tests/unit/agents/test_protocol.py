"""The protocol on real stores: in whatever pieces and however often the source comes, every event counts once."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agents.changelog import dead_letter
from agents.protocol import Batch
from streams.errors import LostEventsError, Reason
from streams.topics import BUCKET_OFFSETS, DEAD_LETTERS
from tables.blocks import BlockKey
from tables.fold import Refused
from tests.support.builders import a_record
from tests.support.comparison import cells_of, newest_progress, rows_of
from tests.support.counting import Broker, InProcess
from tests.support.scripted_consumer import SOURCE
from tests.support.stores import BLOCKS, ROWS, content
from tests.support.tags import some_tags

EVENTS = 9_000
VALUES = [tag.value for tag in some_tags(7, EVENTS, minutes=3)]


@pytest.fixture
def broker() -> Broker:
    return Broker()


def fill(broker: Broker, offsets: Iterator[int] | range) -> None:
    broker.source.update((offset, VALUES[offset % EVENTS]) for offset in offsets)


def values_of(broker: Broker, topic: str) -> dict[tuple[int, bytes], bytes]:
    """Return the value of each key ever written; the law: it is one."""
    values: dict[tuple[int, bytes], bytes] = {}
    for key, value, _ in broker.topics[topic]:
        if value is not None:
            assert values.setdefault((0, key), value) == value, f"two values of {key!r}"
    return values


def left_by_compaction(broker: Broker, topic: str) -> dict[tuple[int, bytes], bytes]:
    """Return what remains when only the last record of each key is kept."""
    last = {(0, key): value for key, value, _ in broker.topics[topic]}
    return {key: value for key, value in last.items() if value is not None}


def expected_cells(broker: Broker, *, before: int) -> dict[tuple[str, ...], tuple[int, int]]:
    counts: Counter[tuple[str, ...]] = Counter()
    sums: Counter[tuple[str, ...]] = Counter()
    for offset, value in broker.source.items():
        if offset < before and value is not None:
            event = json.loads(value)
            product = event["product_info"]
            cell = (event["time"][:16], event["action"], event["origin"], product["brand_id"], product["category_id"])
            counts[cell] += 1
            sums[cell] += product["price"]
    return {cell: (count, sums[cell]) for cell, count in counts.items()}


def assert_exact(broker: Broker, *, before: int) -> None:
    """Every cell and every row, from the changelog in full and from what compaction leaves of it."""
    expected = expected_cells(broker, before=before)
    assert cells_of(values_of(broker, BLOCKS)) == expected
    assert cells_of(left_by_compaction(broker, BLOCKS)) == expected
    assert {row[2] for row in rows_of(values_of(broker, ROWS))} == {offset for offset in broker.source if offset < before}


# -- the property


SMALL_BUCKET = 64
SMALL_LOG = 900
BUCKET_MODULES = ("agents.beginning", "agents.protocol", "tables.blocks", "tables.partitions", "tests.support.counting")
sizes = st.integers(1, 300)
steps = st.lists(
    st.tuples(
        st.sampled_from(["deliver", "deliver", "deliver", "partial", "rewind", "drop", "forget", "restart", "wipe"]), sizes
    ),
    max_size=20,
)


@pytest.fixture
def small_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many buckets in a log that Hypothesis can afford."""
    for module in BUCKET_MODULES:
        monkeypatch.setattr(f"{module}.BUCKET_OFFSETS", SMALL_BUCKET)


@pytest.mark.usefixtures("small_buckets")
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(steps, st.sets(st.integers(0, SMALL_LOG // 50), max_size=8))
async def test_whatever_happens_on_the_way_every_event_counts_once(steps: list[tuple[str, int]], holes: set[int]) -> None:
    """Deliveries of any size, partial versions, lost batches, rewinds, restarts with and without the disk, holes, retention."""
    broker = Broker()
    fill(broker, (offset for offset in range(SMALL_LOG) if offset // 50 not in holes))
    with tempfile.TemporaryDirectory() as folder:
        worker = InProcess(broker, Path(folder) / "0")
        await worker.recover()
        for number, (step, size) in enumerate(steps):
            worker = await take(worker, step, size, Path(folder) / str(number))
            if size % 2:
                await worker.finish()
        while worker.state(0).next < SMALL_LOG:
            await (worker.deliver(SMALL_LOG) if worker.position < SMALL_LOG else worker.rewind(SOURCE))
        await worker.send_partials(keep_alive_s=1e9)
        await worker.finish()
        worker.close()
    assert_exact(broker, before=SMALL_LOG)
    assert newest_progress(values_of(broker, BLOCKS)) == {0: SMALL_LOG - 1}


async def take(worker: InProcess, step: str, size: int, new_home: Path) -> InProcess:
    """Take one step; return the worker that lives after it."""
    end = min(SMALL_LOG, worker.position + size)
    if step == "deliver" and worker.position < end:
        await worker.deliver(end)
    elif step == "drop" and worker.position < end:
        worker.message(end)
    elif step == "partial":
        await worker.send_partials(keep_alive_s=1e9)
    elif step == "rewind":
        await worker.rewind(SOURCE)
    elif step == "forget":  # retention takes what is counted, be its bucket open or not
        await worker.finish()
        worker.broker.log_start = max(worker.broker.log_start, min(worker.counted(0) or 0, worker.broker.log_start + size))
    elif step in ("restart", "wipe"):
        await worker.finish()
        worker.close()
        worker = InProcess(worker.broker, new_home if step == "wipe" else worker.home)
        await worker.recover()
    return worker


# -- accepting


async def test_a_batch_of_an_older_epoch_is_left_alone(broker: Broker, worker: InProcess) -> None:
    fill(broker, range(100))
    old = worker.message(100)
    await worker.rewind(SOURCE)
    await worker.count(old)
    assert worker.state(0).next == 0 and not any(broker.topics.values())


async def test_a_lost_batch_is_seen_and_read_again(broker: Broker, worker: InProcess) -> None:
    fill(broker, range(300))
    await worker.deliver(100)
    worker.message(200)  # dropped after hand-out
    await worker.deliver(300)
    await worker.finish()
    assert worker.position == 0 and worker.acknowledged == [99]
    await worker.deliver(300)
    await worker.finish()
    assert worker.acknowledged == [99, 299]
    assert worker.metrics.rewinds._value.get() == 1


async def test_a_first_batch_of_an_epoch_that_was_lost_is_seen_too(broker: Broker, worker: InProcess) -> None:
    fill(broker, range(300))
    worker.message(100)
    await worker.deliver(300)
    assert worker.position == 0 and worker.acknowledged == [] and worker.state(0).epoch == -1


# -- storing and acknowledging


async def test_nothing_is_stored_or_acknowledged_before_the_changelog_has_it(broker: Broker, worker: InProcess) -> None:
    """Local state never runs ahead of the changelog: else the next owner would know less than this one told."""
    fill(broker, range(100))
    broker.held_back = True
    before = content(worker.tables.block_store)
    await worker.deliver(100)
    await asyncio.sleep(0)
    assert content(worker.tables.block_store) == before and worker.acknowledged == []
    broker.acknowledge()
    await worker.finish()
    assert worker.acknowledged == [99] and content(worker.tables.block_store) != before


async def test_blocks_follow_when_kafka_has_the_rows_and_dead_letters(broker: Broker, worker: InProcess) -> None:
    """Found by simulation: with the blocks alone in Kafka and the source forgotten, the rows could come from nowhere."""
    fill(broker, range(100))
    broker.source[50] = b"no JSON"
    broker.held_back = True
    await worker.deliver(100)
    await asyncio.sleep(0)
    assert broker.topics[ROWS] and broker.topics[DEAD_LETTERS] and not broker.topics[BLOCKS]
    broker.acknowledge()
    await worker.finish()
    assert broker.topics[BLOCKS]


async def test_start_of_a_partition_is_committed_before_its_first_event_is_counted(broker: Broker, worker: InProcess) -> None:
    """Found by simulation: without it, a source that forgot what another owner had counted looks like the first start ever."""
    fill(broker, range(100))
    broker.held_back = True
    await worker.deliver(100)
    assert broker.committed == 0
    broker.acknowledge()
    await worker.finish()


async def test_batches_finish_in_the_order_they_were_sent(broker: Broker, worker: InProcess) -> None:
    fill(broker, range(300))
    broker.held_back = True
    for end in (100, 200, 300):
        await worker.deliver(end)
    broker.acknowledge()
    await worker.finish()
    assert worker.acknowledged == [99, 199, 299]


async def test_a_partition_that_was_revoked_is_not_written(broker: Broker, worker: InProcess) -> None:
    """Opening its database again would take the lock from its new owner; the changelog has the records."""
    fill(broker, range(100))
    broker.held_back = True
    await worker.deliver(100)
    worker.close()
    broker.acknowledge()
    await worker.finish()
    assert worker.tables.block_store.owned() == [] and worker.acknowledged == [99]


async def test_a_foreign_record_in_the_changelog_freezes_the_offset_key(broker: Broker, worker: InProcess) -> None:
    fill(broker, range(200))
    await worker.deliver(100)
    await worker.finish()
    store = worker.tables.block_store
    known = store.persisted_offset(SOURCE)
    broker.topics[BLOCKS].append((BlockKey(1, 0, 1).encode(), b"another owner's", ()))
    await worker.deliver(200)
    await worker.send_partials(keep_alive_s=1e9)
    await worker.finish()
    assert store.persisted_offset(SOURCE) == known
    assert worker.metrics.frozen.labels("minute-blocks")._value.get() == 1


# -- holes, seeds, partial versions


@pytest.mark.parametrize("events", [BUCKET_OFFSETS, BUCKET_OFFSETS - 5])
async def test_a_hole_over_a_buckets_end_is_told_as_progress(broker: Broker, worker: InProcess, events: int) -> None:
    """A19. Else a topic that ends in markers and then forgets everything would look as if events had been lost."""
    fill(broker, range(events))
    await worker.deliver(BUCKET_OFFSETS + 1)
    await worker.send_partials(keep_alive_s=1e9)
    await worker.finish()
    assert newest_progress(values_of(broker, BLOCKS)) == {0: BUCKET_OFFSETS}
    assert worker.counted(0) == BUCKET_OFFSETS + 1


async def test_whole_buckets_without_a_record_are_passed(broker: Broker, worker: InProcess) -> None:
    fill(broker, range(10))
    fill(broker, range(3 * BUCKET_OFFSETS + 5, 3 * BUCKET_OFFSETS + 10))
    end = 3 * BUCKET_OFFSETS + 10
    await worker.deliver(end)
    await worker.send_partials(keep_alive_s=1e9)
    await worker.finish()
    assert_exact(broker, before=end)
    assert worker.counted(0) == end


async def test_a_source_that_forgot_the_buckets_beginning_is_counted_on_from_what_is_stored(
    broker: Broker, worker: InProcess, tmp_path: Path
) -> None:
    """A19. The stored versions stand for what is gone; what both hold counts once, and keys keep their bytes."""
    fill(broker, range(EVENTS))
    await worker.deliver(700)
    await worker.send_partials(keep_alive_s=1e9)
    await worker.finish()
    await worker.deliver(1_000)  # folded, and never told
    broker.log_start = 500
    restarted = InProcess(broker, tmp_path / "another disk")
    await restarted.recover()
    for end in (600, 650, 2_000, EVENTS):
        await restarted.deliver(end)
        await restarted.send_partials(keep_alive_s=1e9)
    await restarted.finish()
    restarted.close()
    assert_exact(broker, before=EVENTS)


async def test_a_source_that_forgot_everything_uncounted_is_noticed_before_its_next_event(
    broker: Broker, worker: InProcess, tmp_path: Path
) -> None:
    """A19. Down for longer than the retention, and nothing is left to deliver: the stop must not wait for an event."""
    fill(broker, range(100))
    await worker.deliver(100)
    await worker.send_partials(keep_alive_s=1e9)
    await worker.finish()
    await worker.check_beginnings()
    broker.log_start = 100
    await worker.rewind(SOURCE)
    await worker.check_beginnings()
    broker.log_start = 101
    await worker.rewind(SOURCE)
    with pytest.raises(LostEventsError):
        await worker.check_beginnings()
    accepting = InProcess(broker, tmp_path / "another", TALLY_WORKER_ACCEPT_LOST_EVENTS="true")
    await accepting.recover()
    await accepting.check_beginnings()
    accepting.close()


async def test_nothing_new_sends_no_partial_version(broker: Broker, worker: InProcess) -> None:
    fill(broker, range(100))
    await worker.deliver(100)
    await worker.send_partials(keep_alive_s=1e9)
    await worker.finish()
    sent = len(broker.topics[BLOCKS])
    await worker.send_partials(keep_alive_s=1e9)
    assert len(broker.topics[BLOCKS]) == sent


async def test_a_silent_partition_sends_its_open_bucket_again_so_that_retention_spares_it(
    broker: Broker, worker: InProcess
) -> None:
    fill(broker, range(100))
    await worker.deliver(100)
    await worker.send_partials(keep_alive_s=1e9)
    await worker.finish()
    sent, versions = len(broker.topics[BLOCKS]), values_of(broker, BLOCKS)
    await worker.send_partials(keep_alive_s=-1)
    await worker.finish()
    assert len(broker.topics[BLOCKS]) > sent and values_of(broker, BLOCKS) == versions


async def test_a_partial_version_never_overtakes_the_batch_that_is_being_folded(broker: Broker, worker: InProcess) -> None:
    """Its `through` would claim what is not yet folded."""
    fill(broker, range(100))
    await worker.deliver(50)
    state = worker.state(0)
    state.folding, state.dirty = True, True
    sent = len(broker.topics[BLOCKS])
    await worker.send_partials(keep_alive_s=-1)
    assert len(broker.topics[BLOCKS]) == sent


# -- dead letters


async def test_what_cannot_be_counted_goes_to_the_dead_letters_with_its_place(broker: Broker, worker: InProcess) -> None:
    fill(broker, range(10))
    broker.source.update({3: None, 7: b"{"})
    await worker.deliver(10)
    await worker.finish()
    letters = [(dict(headers)["offset"], dict(headers)["reason"], value) for _, value, headers in broker.topics[DEAD_LETTERS]]
    assert letters == [(b"3", b"empty", None), (b"7", b"not_json", b"{")]
    assert worker.acknowledged == [9]


def test_a_dead_letter_is_the_record_as_it_came_and_why() -> None:
    from types import SimpleNamespace

    record = SimpleNamespace(key=b"k", value=a_record(), headers=(("trace", b"1"), ("reason", b"theirs")))
    letter = dead_letter("user-tags.v1", 3, Refused(17, Reason.TEXT, "a \ud800 text"), record)
    assert (letter.key, letter.value) == (b"k", record.value)
    assert list(letter.headers) == [
        ("trace", b"1"), ("reason", b"theirs"), ("reason", b"text"), ("detail", b"a ? text"), ("topic", b"user-tags.v1"),
        ("partition", b"3"), ("offset", b"17"), ("stage", b"count"),
    ]  # fmt: skip


def test_an_empty_batch_holds_nothing() -> None:
    assert Batch().blocks == [] and Batch().event is None
