"""A worker knows who holds which partition, and refuses to answer where nobody does."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from streams.errors import IncompleteAnswerError
from streams.partitioner import partition_of
from streams.topics import USER_TAGS, changelog_of
from tables.profiles import MISROUTED
from tables.registry import StreamTables
from tests.support.stores import opened, some_tables
from views.owners import Owners

PARTITIONS = 4
TOPIC = changelog_of(USER_TAGS.blocks_table)
HERE = "http://127.0.0.1:6066"
THERE = "http://127.0.0.1:6067"


@dataclass
class FakeApp:
    """What is asked of Faust's app: readiness, its own URL, and what the leader told of all."""

    metadata: dict[str, dict[str, list[int]]]
    rebalancing: bool = False
    tables: Any = field(default_factory=lambda: SimpleNamespace(actives_ready=True))

    @property
    def router(self) -> Any:
        return SimpleNamespace(tables_metadata=lambda: self.metadata)

    @property
    def conf(self) -> Any:
        return SimpleNamespace(canonical_url=HERE)


def owners_of(app: FakeApp, *, open_here: list[int] | None = None) -> Owners:
    store = SimpleNamespace(owned=lambda: open_here or [])
    tables = StreamTables(USER_TAGS, cast("Any", SimpleNamespace(data=store)), None)
    return Owners(app, tables, partitions=PARTITIONS)


async def names(partitions: list[int]) -> list[int]:
    return partitions


def test_partitions_are_grouped_by_their_owner() -> None:
    """One request a worker, however many partitions it holds."""
    app = FakeApp({HERE: {TOPIC: [0, 2]}, THERE: {TOPIC: [1, 3], "other": [0]}})
    assert owners_of(app).by_owner(range(PARTITIONS)) == {HERE: [0, 2], THERE: [1, 3]}
    assert owners_of(app).by_owner([3]) == {THERE: [3]}


@pytest.mark.parametrize("metadata", [{}, {HERE: {}}, {HERE: {TOPIC: [0, 1, 2]}}, {HERE: {"other": [0, 1, 2, 3]}}])
def test_partition_without_owner_is_no_answer(metadata: dict[str, dict[str, list[int]]]) -> None:
    """Design §10: 503 rather than less."""
    with pytest.raises(IncompleteAnswerError, match="has no owner"):
        owners_of(FakeApp(metadata)).by_owner(range(PARTITIONS))


@pytest.mark.parametrize(("rebalancing", "recovered"), [(True, True), (False, False), (True, False)])
async def test_worker_that_is_not_ready_answers_nothing(rebalancing: bool, recovered: bool) -> None:
    """Its own partitions may be gone or incomplete."""
    app = FakeApp({HERE: {TOPIC: [0, 1, 2, 3]}}, rebalancing, SimpleNamespace(actives_ready=recovered))
    owners = owners_of(app, open_here=[0, 1, 2, 3])
    assert not owners.is_ready()
    assert not owners.holds([0])
    with pytest.raises(IncompleteAnswerError, match="recovering or rebalancing"):
        await owners.ask("internal/aggregates", [0], {}, names)


async def test_own_partition_whose_store_is_not_open_is_no_answer() -> None:
    """What the leader told and what is open differ for a moment; the store of a partition not open would answer zero."""
    app = FakeApp({HERE: {TOPIC: [0, 1, 2, 3]}})
    everything = range(PARTITIONS)
    with pytest.raises(IncompleteAnswerError):
        await owners_of(app, open_here=[0, 1, 2]).ask("internal/aggregates", everything, {}, names)
    assert await owners_of(app, open_here=[0, 1, 2, 3]).ask("internal/aggregates", everything, {}, names) == [[0, 1, 2, 3]]


async def test_profile_is_asked_for_everywhere_until_every_peer_was_asked_what_it_remembers() -> None:
    """A worker that starts anew cannot know yet whether another one has seen a producer that partitions otherwise."""
    app = FakeApp({HERE: {TOPIC: [0, 1, 2, 3]}})
    owners = owners_of(app, open_here=[0, 1, 2, 3])
    assert owners.partitions_of("ann") == [0, 1, 2, 3]
    app.metadata = {HERE: {TOPIC: [0, 1, 2]}}
    await owners.look_round()
    assert owners.partitions_of("ann") == [0, 1, 2, 3]
    app.metadata = {HERE: {TOPIC: [0, 1, 2, 3]}}
    await owners.look_round()
    assert owners.partitions_of("ann") == [partition_of(b"ann", PARTITIONS)]
    owners.misrouted = True
    assert owners.partitions_of("ann") == [0, 1, 2, 3]


async def test_what_a_look_round_found_here_is_remembered_when_the_partition_goes(tmp_path: Path) -> None:
    """Nobody need have asked for a profile meanwhile; peers that were asked before know nothing of it."""
    app = FakeApp({HERE: {TOPIC: [0, 1, 2, 3]}})
    tables = some_tables(tmp_path)
    for table in tables.all:
        for partition in range(PARTITIONS):
            opened(table.data, partition)
    opened(tables.rows.data).put(MISROUTED, b"")  # type: ignore[union-attr]
    owners = Owners(app, tables, partitions=PARTITIONS)
    await owners.look_round()
    for table in tables.all:
        table.data._dbs.clear()
    assert owners.partitions_of("ann") == [0, 1, 2, 3]
