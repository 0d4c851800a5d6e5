"""A submission that is sent again counts once, and the same one of the two in every life of a worker."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rocksdict import WriteBatch

from agents import protocol
from agents.duplicates import DuplicatesKeeper
from streams.topics import EVENTS
from tables import duplicates
from tables.blocks import KEY_BYTES, PROGRESS, BlockKey
from tables.duplicates import Submissions
from tables.erasures import Erasure, digest_of, offset_of
from tables.profiles import DUPLICATE, INDEX, RowCodec, decode_span
from tests.support.builders import a_submission
from tests.support.counting import InProcess
from tests.support.lawful import ROWS, LawfulBroker
from tests.support.sent_again import HOUR_MS, START_MS, SubmissionLog, some_submissions, totals_of
from tests.support.stores import content

SMALL_BUCKET = 16
SMALL_LOG = 165
"""No multiple of a bucket: a group that has committed all of it would have nothing to begin with."""
BUCKET_MODULES = (
    "agents.beginning", "agents.protocol", "agents.duplicates", "tables.blocks", "tables.duplicates", "tables.partitions",
    "tests.support.counting",
)  # fmt: skip
KINDS = ("deliver", "deliver", "deliver", "partial", "rewind", "drop", "expire", "restart", "wipe", "die")


def assert_exact(broker: LawfulBroker) -> None:
    """Compare with the rule: cells, timelines, the index and the duplicates."""
    firsts, codec = broker.log.firsts(), RowCodec(EVENTS)
    assert broker.totals() == totals_of(firsts)
    rows = broker.rows()
    assert {offset_of(key) for key in rows if key.startswith(DUPLICATE)} == broker.log.duplicates()
    assert {offset_of(key) for key in rows if key[:1] == INDEX and not key.startswith(DUPLICATE)} == firsts.keys()
    timeline = [codec.event_of(codec.decode(*row)) for row in rows.items() if row[0][:1] not in (INDEX, b"\xff")]
    assert sorted(map(in_order, timeline)) == sorted(map(in_order, firsts.values()))


def in_order(event: dict[str, Any]) -> str:
    return json.dumps(event, sort_keys=True)


@pytest.fixture
def small_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many buckets in a log that Hypothesis can afford."""
    for module in BUCKET_MODULES:
        monkeypatch.setattr(f"{module}.BUCKET_OFFSETS", SMALL_BUCKET)


class Course:
    """One log taken through whatever happens on the way."""

    def __init__(self, broker: LawfulBroker, folder: Path) -> None:
        self.broker = broker
        self.folder = folder
        self.lives = 0
        self.keeper: DuplicatesKeeper

    async def start(self, home: str) -> None:
        """Begin a life of the worker."""
        self.lives += 1
        self.worker = InProcess(self.broker, self.folder / home, EVENTS)
        self.keeper = DuplicatesKeeper(self.worker)
        await self.worker.recover()

    async def take(self, kind: str, size: int) -> None:
        """Take one step."""
        worker = self.worker
        end = min(SMALL_LOG, worker.position + size)
        if kind == "deliver" and worker.position < end:
            await worker.deliver(end)
        elif kind == "drop" and worker.position < end:
            worker.message(end)
        elif kind == "partial":
            await worker.send_partials(keep_alive_s=1e9)
        elif kind == "rewind":
            await worker.rewind(worker.source)
        elif kind == "expire":
            await self.expire()
        elif kind in ("restart", "wipe"):
            await worker.finish()
            worker.close()
            await self.start(self.worker.home.name if kind == "restart" else f"wiped-{self.lives}")
        elif kind == "die":  # what the broker has may be more than what the store has
            self.broker.held_back = False
            worker.close()
            await self.start(f"died-{self.lives}")
        self.assert_progress_is_the_last_key()

    def assert_progress_is_the_last_key(self) -> None:
        """Compare with a walk over the whole store of blocks: it looks at the last key only, and nothing may lie behind."""
        store = self.worker.tables.block_store
        keys = [BlockKey.decode(key) for key in content(store) if len(key) == KEY_BYTES]
        assert store.progress(0) == max((key for key in keys if key.minute == PROGRESS), default=None)

    async def expire(self) -> None:
        """Let rows go that are older than the horizon: all that no rule can need any more but for duplicates' own."""
        await self.worker.finish()
        counted = self.worker.counted(0) or 0
        if not counted:
            return
        await self.keeper.keep_alive(after_s=0.0)
        await self.worker.finish()
        now_ms = self.broker.timestamps[counted - 1] - 5_000
        before = next(
            (offset for offset in range(counted) if self.broker.timestamps[offset] >= now_ms - EVENTS.horizon_s_min * 1000),
            counted,
        )
        store: Any = self.worker.tables.row_store
        kept = {offset_of(key) for key, _, _ in self.broker.topics[ROWS] if key.startswith(DUPLICATE)}
        write = WriteBatch(raw_mode=True)
        for key, _ in store.scan(0, b"", b"\xff"):
            is_kept = key.startswith(DUPLICATE) and offset_of(key) in kept
            if not key.startswith(b"__faust") and offset_of(key) < before and not is_kept:
                write.delete(key)
        store.database(0).write(write)
        self.broker.expire(before)

    async def end(self) -> None:
        """Count the rest."""
        worker = self.worker
        while worker.state(0).next < SMALL_LOG:
            await (worker.deliver(SMALL_LOG) if worker.position < SMALL_LOG else worker.rewind(worker.source))
        await worker.send_partials(keep_alive_s=1e9)
        await worker.finish()
        worker.close()


async def run_course(log: SubmissionLog, steps: list[tuple[str, int]]) -> LawfulBroker:
    """Return the broker after a course."""
    broker = LawfulBroker(log)
    with tempfile.TemporaryDirectory() as folder:
        course = Course(broker, Path(folder))
        await course.start("first")
        for kind, size in steps:
            await course.take(kind, size)
            if size % 2:
                await course.worker.finish()
        await course.end()
    return broker


steps = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(1, 60)), max_size=20)
slow = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)


@pytest.mark.usefixtures("small_buckets")
@slow
@given(st.integers(0, 2**32), steps)
async def test_each_submission_counts_once_whatever_happens_on_the_way(seed: int, steps: list[tuple[str, int]]) -> None:
    """P4, design §11: deliveries of any size, lost batches, restarts with and without the disk, rows that are too old."""
    assert_exact(await run_course(some_submissions(Random(seed), SMALL_LOG), steps))


def one(**fields: Any) -> dict[str, Any]:
    return a_submission("opened", time="2022-03-01T00:00:00Z", **fields)


# -- the property finds what breaks the rule


def judged_by_what_was_seen_last(self: Submissions, head: bytes, user: bytes, place: tuple[int, int], cursor: Any) -> bool:
    """Say whether it was seen at all, whatever the offsets are: as a set of seen ids would."""
    return any(head in bucket for bucket in self._buckets.values()) or any(True for _ in duplicates._stored(cursor, head))


async def forgotten(self: DuplicatesKeeper, *, after_s: float) -> None:
    """Keep nothing alive."""


def none_stored(store: Any, partition: int, first: int) -> list[int]:
    """Find no duplicate that an earlier life has told."""
    return []


@pytest.mark.usefixtures("small_buckets")
async def test_judging_by_what_was_seen_last_shows() -> None:
    """A property that no fault could break would prove nothing: a record that is read again finds itself."""
    course = [("deliver", 59), ("rewind", 1), ("deliver", 41), ("restart", 1), ("deliver", 40)]
    with patch.object(Submissions, "_is_repeated", judged_by_what_was_seen_last), pytest.raises(AssertionError):
        assert_exact(await run_course(some_submissions(Random(1), SMALL_LOG), course))


def an_open_bucket_older_than_the_index() -> SubmissionLog:
    """Return a log whose second bucket begins with duplicates of the first one's, and goes on long after these are gone."""
    log = SubmissionLog()
    for offset in range(SMALL_LOG):
        log.sent[offset] = one(id=str(offset % SMALL_BUCKET if offset < 20 else offset))
        log.timestamps[offset] = START_MS + (0 if offset < 20 else 100 * HOUR_MS)
    return log


OLD_BUCKET: list[tuple[str, int]] = [
    ("deliver", 21),
    ("partial", 1),
    ("expire", 1),
    ("restart", 1),
    ("expire", 1),
    ("rewind", 1),
]


@pytest.mark.usefixtures("small_buckets")
async def test_open_bucket_that_is_older_than_the_index_is_read_again_as_it_was() -> None:
    """A quiet partition's bucket may stay open for weeks. Its duplicates' own rows are kept alive; the firsts' are not."""
    assert_exact(await run_course(an_open_bucket_older_than_the_index(), OLD_BUCKET))


@pytest.mark.usefixtures("small_buckets")
@pytest.mark.parametrize(
    ("place", "name", "plant"),
    [(DuplicatesKeeper, "keep_alive", forgotten), (protocol, "stored_duplicates", none_stored)],
    ids=["not kept alive", "not asked"],
)
async def test_without_their_own_rows_it_is_not(place: Any, name: str, plant: Callable[..., Any]) -> None:
    """So it is these rows that do it."""
    with patch.object(place, name, plant), pytest.raises(AssertionError):
        assert_exact(await run_course(an_open_bucket_older_than_the_index(), OLD_BUCKET))


# -- one case each


async def counted_by(log: SubmissionLog, folder: Path, *cuts: int) -> LawfulBroker:
    """Return the broker after deliveries that end at the cuts."""
    broker = LawfulBroker(log)
    worker = InProcess(broker, folder, EVENTS)
    await worker.recover()
    for cut in cuts:
        await worker.deliver(cut)
    await worker.finish()
    await worker.send_partials(keep_alive_s=1e9)
    await worker.finish()
    worker.close()
    return broker


def log_of(*events: tuple[int, dict[str, Any]]) -> SubmissionLog:
    """Return a log of (hours after its beginning, event)."""
    log = SubmissionLog()
    for offset, (hours, event) in enumerate(events):
        log.sent[offset], log.timestamps[offset] = event, START_MS + hours * HOUR_MS
    return log


def counts_of(broker: LawfulBroker) -> int:
    return sum(broker.totals().values())


async def test_one_id_of_two_users_and_two_ids_of_one_are_no_duplicates(tmp_path: Path) -> None:
    """Issue 7.1: the same id of the same user meets itself; the NUL between them lets neither run into the other."""
    log = log_of(
        (0, one(user="a", id="1")), (0, one(user="b", id="1")), (0, one(user="a", id="2")), (0, one(user="a1", id="")),
        (0, one(user="", id="a1")),
    )  # fmt: skip
    assert counts_of(await counted_by(log, tmp_path, 5)) == 5


@pytest.mark.parametrize(("hours", "count"), [(48, 1), (49, 2)])
async def test_same_submission_counts_again_after_48_hours(tmp_path: Path, hours: int, count: int) -> None:
    """Issue 7.1; a client gives up after 24 hours, so none is sent again later."""
    log = log_of((0, one()), (hours, one()))
    assert counts_of(await counted_by(log, tmp_path / "together", 2)) == count
    assert counts_of(await counted_by(log, tmp_path / "apart", 1, 2)) == count


@pytest.mark.usefixtures("small_buckets")
async def test_what_counted_again_after_too_long_a_lag_counts_for_every_life(tmp_path: Path) -> None:
    """Whoever has lost the evidence takes a duplicate for a first one; who still has it, on a disk of before, goes by that."""
    log = log_of((0, one()), *((0, one(id=f"{number}")) for number in range(1, SMALL_BUCKET)), (40, one()))
    broker = await counted_by(log, tmp_path / "before", SMALL_BUCKET)
    broker.committed = SMALL_BUCKET
    broker.expire(SMALL_BUCKET)  # it is 35 hours later than the last record, say
    for home in ("wiped", "before"):
        worker = InProcess(broker, tmp_path / home, EVENTS)
        await worker.recover()
        assert worker.position == SMALL_BUCKET
        await worker.deliver(SMALL_BUCKET + 1)
        await worker.finish()
        await worker.send_partials(keep_alive_s=1e9)
        await worker.finish()
        worker.close()
    assert counts_of(broker) == SMALL_BUCKET + 1
    assert not any(key.startswith(DUPLICATE) for key in broker.rows())


async def test_duplicates_do_not_prolong_each_other(tmp_path: Path) -> None:
    """The rule asks for a first one: what is sent every day for ever would else count once for ever."""
    log = log_of((0, one()), (30, one()), (60, one()), (90, one()))
    assert counts_of(await counted_by(log, tmp_path, 1, 2, 3, 4)) == 2
    assert log.firsts().keys() == {0, 2}


async def test_submission_without_datapoints_has_a_row_and_no_cell(tmp_path: Path) -> None:
    """P3: a transaction may have none, and is one all the same."""
    log = log_of((0, one() | {"data": []}))
    broker = await counted_by(log, tmp_path, 1)
    assert_exact(broker)
    assert broker.totals() == {}


async def test_erased_user_leaves_no_place_in_the_index_and_what_was_judged_stays(tmp_path: Path) -> None:
    """The index holds the user's name. What counted before the erasure counts as it did, read again or not."""
    log = log_of((0, one(user="ann")), (1, one(user="ann")), (2, one(user="bob")), (3, one(user="ann")))
    broker = LawfulBroker(log)
    worker = InProcess(broker, tmp_path, EVENTS)
    await worker.recover()
    await worker.deliver(3)
    await worker.finish()
    worker.state(0).erased.add([Erasure(digest_of(b"ann"), 4)])
    broker.written, sent = {}, len(broker.topics[ROWS])  # the law is that of the erasures too
    await worker.rewind(worker.source)
    await worker.deliver(4)
    await worker.finish()
    keys = [key for _, value, _ in broker.topics[ROWS][sent:] for key, _ in decode_span(value)]
    assert not any(b"ann" in key for key in keys)
    assert {offset_of(key) for key in keys if key.startswith(DUPLICATE)} == {1, 3}
    worker.close()


async def test_batch_of_a_partition_that_is_taken_away_is_given_up(tmp_path: Path) -> None:
    """Without the index a worker would take duplicates for first ones, and send what nobody else would under those keys."""
    log = log_of((0, one()), (1, one()))
    broker = LawfulBroker(log)
    worker = InProcess(broker, tmp_path, EVENTS)
    await worker.recover()
    await worker.deliver(1)
    await worker.finish()
    sent = len(broker.topics[ROWS])
    store: Any = worker.tables.row_store
    databases = dict(store._dbs)
    store._dbs.clear()
    await worker.deliver(2)
    assert len(broker.topics[ROWS]) == sent
    store._dbs.update(databases)
    await worker.rewind(worker.source)
    await worker.deliver(2)
    await worker.send_partials(keep_alive_s=1e9)
    await worker.finish()
    assert counts_of(broker) == 1
    worker.close()


async def test_duplicates_are_told_once_and_replays_are_not(tmp_path: Path) -> None:
    """`tally_duplicates_total` is what clients sent again; a restart of ours is none of theirs."""
    log = log_of((0, one()), (1, one()), (2, one()))
    worker = InProcess(LawfulBroker(log), tmp_path, EVENTS)
    await worker.recover()
    await worker.deliver(3)
    await worker.send_partials(keep_alive_s=1e9)
    await worker.finish()
    await worker.rewind(worker.source)
    await worker.deliver(3)
    await worker.finish()
    text = worker.metrics.text().decode()
    assert 'tally_duplicates_total{topic="events.v1"} 2.0' in text
    assert 'tally_events_total{result="duplicate",topic="events.v1"} 4.0' in text
    assert 'tally_events_total{result="counted",topic="events.v1"} 2.0' in text
    worker.close()
