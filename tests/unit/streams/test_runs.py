"""Runs cut from fetched batches: nothing lost, nothing twice, every hole accounted for."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.consumer import consumer as aiokafka_consumer
from aiokafka.consumer import fetcher as aiokafka_fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.structs import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from streams import runs, transport
from streams.runs import RUN_RECORDS_MAX, Fetcher, Run, RunRecords, cut
from streams.topics import USER_TAGS
from tests.support.record_batches import ABORT, COMMIT, LogBatch, partition_records, value_of

SOURCE = TopicPartition(USER_TAGS.topic, 0)
CHANGELOG = TopicPartition("tally-minute-blocks-changelog", 0)
STOCK = RunRecords.__mro__[1]


def records_at(*offsets: int) -> list[Any]:
    return [SimpleNamespace(offset=offset, value=value_of(offset)) for offset in offsets]


def read(batches: list[LogBatch], *, start: int = 0, aborted: list[tuple[int, int]] | None = None) -> tuple[list[Run], int]:
    """Return the runs of a fetch and the position after it."""
    reader = partition_records(RunRecords, batches, topic_partition=SOURCE, fetched_from=start, aborted=aborted or [])
    return list(reader), reader.next_fetch_offset


@st.composite
def logs(draw: Any) -> tuple[list[LogBatch], int, list[tuple[int, int]]]:
    """Return batches as a broker may hold them, a position to fetch from inside the first, and the aborted transactions."""
    batches: list[LogBatch] = []
    aborted: list[tuple[int, int]] = []
    base = draw(st.integers(0, 10_000))
    open_since: dict[int, int] = {}  # by producer
    for _ in range(draw(st.integers(1, 8))):
        base += draw(st.sampled_from([0, 0, 0, 1, 5]))
        producer = draw(st.sampled_from([-1, 7, 8]))
        ends = producer != -1 and producer in open_since and draw(st.booleans())
        if ends:
            marker = draw(st.sampled_from([COMMIT, ABORT]))
            batches.append(LogBatch(base, [0], 1, producer, marker))
            since = open_since.pop(producer)
            if marker == ABORT:
                aborted.append((producer, since))
            base += 1
            continue
        span = draw(st.integers(1, 12))
        deltas = draw(st.sets(st.integers(0, span - 1), min_size=1).map(sorted))
        if producer != -1:
            open_since.setdefault(producer, base)
        batches.append(LogBatch(base, deltas, span, producer))
        base += span
    first = batches[0]
    return batches, first.base + draw(st.integers(0, first.span - 1)), sorted(aborted, key=lambda one: one[1])


@given(logs())
def test_runs_hold_what_aiokafka_reads_and_continue_each_other(log: tuple[list[LogBatch], int, list[tuple[int, int]]]) -> None:
    """Transactions, markers and compaction: the same records as the stock reader yields, and no offset unaccounted for."""
    batches, start, aborted = log
    stock = partition_records(STOCK, batches, topic_partition=SOURCE, fetched_from=start, aborted=aborted)
    expected = [(record.offset, record.value) for record in stock]
    found, position = read(batches, start=start, aborted=aborted)
    assert [(run.base + index, value) for run in found for index, value in enumerate(run.values)] == expected
    assert position == stock.next_fetch_offset
    assert all(run.start <= run.base for run in found)
    assert all(left.end == right.start for left, right in pairwise(found))
    if found:
        assert (found[0].start, found[-1].end) == (start, position)


@given(st.lists(st.integers(0, 5_000), unique=True).map(sorted), st.integers(0, 5_000))
def test_cutting_keeps_every_record_from_the_start_on_and_bounds_each_run(offsets: list[int], start: int) -> None:
    found = list(cut(records_at(*offsets), start))
    assert [run.base + index for run in found for index in range(len(run.values))] == [o for o in offsets if o >= start]
    assert all(0 < len(run.values) <= RUN_RECORDS_MAX for run in found)
    assert [run.start for run in found] == ([start, *(run.end for run in found)])[: len(found)]


def test_a_long_batch_is_cut_at_the_limit_of_what_is_folded_between_two_awaits() -> None:
    found = list(cut(records_at(*range(10, 10 + 2 * RUN_RECORDS_MAX + 1)), 10))
    assert [len(run.values) for run in found] == [RUN_RECORDS_MAX, RUN_RECORDS_MAX, 1]


def test_a_marker_at_the_end_becomes_an_empty_run_so_that_the_next_fetch_continues() -> None:
    """Without it the next fetch would start past the position, look like a loss, and be sought again for ever."""
    found, position = read([LogBatch(0, range(3), 3, 7), LogBatch(3, [0], 1, 7, COMMIT)])
    assert [(run.start, run.base, len(run.values)) for run in found] == [(0, 0, 3), (3, 4, 0)]
    assert position == found[-1].end == 4


def test_an_aborted_transaction_is_a_hole_and_its_records_are_not_delivered() -> None:
    batches = [LogBatch(0, [0], 1), LogBatch(1, range(5), 5, 7), LogBatch(6, [0], 1, 7, ABORT), LogBatch(7, [0], 1)]
    found, _ = read(batches, aborted=[(7, 1)])
    assert [(run.start, run.base, run.values) for run in found] == [(0, 0, [value_of(0)]), (1, 7, [value_of(7)])]


def test_a_fetch_of_nothing_but_an_aborted_transaction_is_one_empty_run() -> None:
    found, position = read([LogBatch(5, range(3), 3, 7), LogBatch(8, [0], 1, 7, ABORT)], start=5, aborted=[(7, 5)])
    assert [(run.start, run.end, run.values) for run in found] == [(5, 9, [])] and position == 9


def test_compaction_inside_a_batch_cuts_the_run_and_its_lost_tail_is_passed() -> None:
    found, position = read([LogBatch(0, [1, 2, 5], 8)])
    assert [(run.start, run.base, run.end) for run in found] == [(0, 1, 3), (3, 5, 6), (6, 8, 8)] and position == 8


def test_a_fetch_from_the_middle_of_a_batch_leaves_out_what_lies_before() -> None:
    found, _ = read([LogBatch(0, range(10), 10)], start=4)
    assert [(run.start, run.base, len(run.values)) for run in found] == [(4, 4, 6)]


def test_a_poll_that_stops_between_two_runs_knows_where_it_stopped() -> None:
    """aiokafka takes the position from the reader at any record limit, not only at the end of a batch."""
    reader = partition_records(RunRecords, [LogBatch(0, [0, 1, 4, 5], 6)], topic_partition=SOURCE, fetched_from=0)
    assert next(reader).end == reader.next_fetch_offset == 2
    assert next(reader).end == reader.next_fetch_offset == 6


def test_a_damaged_batch_is_refused() -> None:
    reader = partition_records(RunRecords, [LogBatch(3, range(3), 3)], topic_partition=SOURCE, fetched_from=3)
    reader._check_crcs = True
    broken = SimpleNamespace(has_next=lambda: True, next_batch=lambda: SimpleNamespace(validate_crc=lambda: False))
    reader._records = broken
    with pytest.raises(CorruptRecordException):
        next(reader)


def test_what_lies_before_a_damaged_batch_is_delivered_first() -> None:
    """Else sound events would wait for an operator, together with the one that needs him."""
    reader = partition_records(
        RunRecords, [LogBatch(0, range(2), 2), LogBatch(2, [0], 1)], topic_partition=SOURCE, fetched_from=0
    )
    sound = [reader._records.next_batch(), reader._records.next_batch()]
    batches = iter([*sound, SimpleNamespace(validate_crc=lambda: False)])
    reader._check_crcs = True
    reader._records = SimpleNamespace(has_next=lambda: True, next_batch=lambda: next(batches))
    assert [(run.base, run.end) for run in (next(reader),)] == [(0, 3)]
    with pytest.raises(CorruptRecordException):
        next(reader)


def test_small_batches_are_one_run() -> None:
    """A producer that sends one event at a time makes batches of one; after an outage there are a million of them."""
    batches = [LogBatch(offset, [0], 1) for offset in range(2 * RUN_RECORDS_MAX)]
    found, _ = read(batches)
    assert [len(run.values) for run in found] == [RUN_RECORDS_MAX, RUN_RECORDS_MAX]


def test_other_topics_are_read_record_by_record_as_faust_needs_for_recovery() -> None:
    reader = partition_records(RunRecords, [LogBatch(0, range(3), 3)], topic_partition=CHANGELOG, fetched_from=0)
    assert [record.offset for record in reader] == [0, 1, 2]


def test_aiokafka_uses_our_reader_and_our_fetcher() -> None:
    """It looks both up by module name; a release that imports them otherwise would silently go back to its own."""
    assert transport.SCHEME  # its import puts them there
    assert aiokafka_fetcher.PartitionRecords is RunRecords
    assert aiokafka_consumer.Fetcher is Fetcher


def test_the_fetcher_waits_shortly_and_never_shows_what_was_not_committed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Faust fixes the wait at 1,500 ms: a long poll of idle partitions then holds up every other of that broker."""
    seen: dict[str, Any] = {}
    monkeypatch.setattr(aiokafka_fetcher.Fetcher, "__init__", lambda self, *args, **kwargs: seen.update(kwargs))
    monkeypatch.setattr(Fetcher, "__del__", lambda self: None, raising=False)
    Fetcher(None, None, fetch_max_wait_ms=1500, isolation_level="read_uncommitted")
    assert seen == {
        "fetch_min_bytes": runs.FETCH_BYTES_MIN,
        "fetch_max_wait_ms": runs.FETCH_WAIT_MS,
        "prefetch_backoff": runs.PREFETCH_BACKOFF_S,
        "isolation_level": "read_committed",
    }
