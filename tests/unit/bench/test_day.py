"""The parts of the simulated day: who may send how much, and what must be answered."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from bench.__main__ import chosen
from bench.cases import all_cases
from bench.cases.day import CASE, size_of
from bench.day_tags import DAY, HOT_WATCHED, KEPT, OTHERS_STEP, OTHERS_WATCHED, Expected, partitions_of
from bench.workloads import events_of
from load.events import START_MS, cookie_of
from streams.event_time import MINUTE_MS
from streams.partitioner import partition_of
from tests.support.oracle import Oracle

COUNT = 30_000


def test_day_runs_only_when_it_is_named() -> None:
    """`make bench` of everything is for an evening, not for tens of gigabytes."""
    cases = list(all_cases().values())
    assert CASE.name not in [case.name for case in chosen(cases, [], peers=True)]
    assert [case.name for case in chosen(cases, ["day"], peers=False)] == [CASE.name]


def test_partitions_are_those_of_every_producer() -> None:
    """Computed for thousands at once; one that differs would be a misrouted record."""
    cookies = [cookie_of(number * number) for number in range(2_000)]
    for partitions in (1, 4, 7):
        assert partitions_of(cookies, partitions) == [partition_of(cookie, partitions) for cookie in cookies]


def test_expected_answers_are_those_of_plain_recomputation() -> None:
    """The day's own bookkeeping must be cheap, so it is not the tests' oracle; it must say the same."""
    expected, plain = Expected(), Oracle()
    for number, event in enumerate(events_of(replace(DAY, events=COUNT))):
        expected.add(event)
        plain.add(event.body, number)
    told = json.loads(json.dumps(expected.as_json()))
    assert sum(count for _, _, count, _ in told["totals"]) == COUNT
    assert sum(total for *_, total in told["totals"]) == sum(plain.sums.values())
    assert {minute for minute, *_ in told["totals"]} == {START_MS // MINUTE_MS}
    assert len(told["profiles"]) == HOT_WATCHED + OTHERS_WATCHED
    assert cookie_of(OTHERS_STEP).decode() in told["profiles"]
    for cookie, kinds in told["profiles"].items():
        answer = plain.profile(cookie, 0, 2**62)
        assert (kinds["VIEW"], kinds["BUY"]) == (answer["views"], answer["buys"])


def test_hot_user_keeps_the_newest_only() -> None:
    """Rule 3: 200 of a kind, however many were sent, the newest first."""
    expected, sent = Expected(), [event for event in events_of(replace(DAY, events=5 * COUNT)) if event.cookie == cookie_of(0)]
    for event in sent:
        expected.add(event)
    views = [json.loads(event.body) for event in sent if b'"VIEW"' in event.body]
    assert len(views) > KEPT
    assert expected.as_json()["profiles"][cookie_of(0).decode()]["VIEW"] == views[: -KEPT - 1 : -1]


def test_size_of_a_folder_is_what_its_files_take(tmp_path: Path) -> None:
    """Not how long they are: Kafka's indexes are long files of holes."""
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "full").write_bytes(b"x" * 100_000)
    with (tmp_path / "holes").open("wb") as file:
        file.truncate(10_000_000)
    assert 100_000 <= size_of(tmp_path) < 1_000_000
