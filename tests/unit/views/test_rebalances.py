"""A rebalance begins while the recovery of the one before it ends: Faust's own tables, recovery and stores, without a broker.

Faust says at its beginning, once, that a rebalance is under way, and the recovery before it says at its end that none is.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faust.assignor.client_assignment import ClientAssignment
from faust.types import TP

from streams.app import App
from streams.topics import USER_TAGS
from tables.registry import StreamTables
from tables.store import Store
from tests.support.scripted_consumer import ScriptedConsumer, SilentProducer, nothing
from tests.support.stores import BLOCKS, ROWS, some_tables
from views.owners import Owners

PARTITIONS = 4


class Fetcher:
    """Stands where Faust sees to it that somebody fetches."""

    async def maybe_start(self) -> None:
        return None


class Member:
    """A worker in a group: what Kafka and Faust call of its tables, in their order."""

    def __init__(self, home: Path) -> None:
        self.tables: StreamTables = some_tables(home)
        self.app: App = self.tables.blocks.app
        self.app.producer = self.app._producer = SilentProducer()
        self.app._fetcher = Fetcher()
        self.app.topics.acks_enabled_for = lambda topic: True
        self.consumer = ScriptedConsumer(self.app)
        self.consumer.assigned = set()
        self.app.consumer = self.consumer
        self.owners = Owners(self.app, self.tables, partitions=PARTITIONS)

    @property
    def stores(self) -> list[Store]:
        return [table.data for table in self.tables.all]

    async def begin(self) -> None:
        """Take part in a rebalance: Faust's thread says so as soon as it knows, and its loop stops fetching."""
        self.app.on_rebalance_start()
        self.consumer.stop_flow()

    async def be_assigned(self, *partitions: int, generation: int) -> None:
        """Be given partitions, which are to be recovered then."""
        assigned = {TP(topic, number) for topic in (USER_TAGS.topic, BLOCKS, ROWS) for number in partitions}
        self.app.consumer_generation_id = generation
        actives = {BLOCKS: list(partitions), ROWS: list(partitions)}
        self.app.assignor._assignment = ClientAssignment(actives=actives, standbys={})
        new, gone = assigned - self.consumer.assigned, self.consumer.assigned - assigned
        self.consumer.assigned = assigned
        await self.app.tables.on_rebalance(assigned, gone, new, generation)

    async def recovered(self, *, generation: int) -> None:
        """End the recovery of a generation, as Faust's task of it does."""
        recovery = self.app.tables.recovery
        recovery.signal_recovery_start.clear()
        await recovery.on_recovery_completed(generation)


@pytest.fixture
def member(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Member]:
    member = Member(tmp_path)
    monkeypatch.setattr(member.app.tables, "_update_channels", nothing)
    yield member
    for store in member.stores:
        store._dbs.clear()


async def test_partitions_are_answered_for_once_they_are_recovered(member: Member) -> None:
    assert not member.owners.is_ready()
    await member.begin()
    await member.be_assigned(0, 1, generation=1)
    assert not member.owners.holds([0])
    await member.recovered(generation=1)
    assert member.owners.holds([0, 1]) and not member.owners.holds([2])


async def test_partition_of_a_rebalance_that_began_as_a_recovery_ended_is_not_answered_for(member: Member) -> None:
    """Its store is open and empty: 200 with it would be an answer with too few events. Two workers that come back do that."""
    await member.begin()
    await member.be_assigned(0, 1, generation=1)
    member.consumer.on_seek = [member.begin]  # the seek to the commits is the last that a recovery waits for
    await member.recovered(generation=1)
    member.consumer.on_seek = []
    assert member.app.rebalancing
    assert not member.consumer.flow_active  # changelogs that nobody recovers would be fetched: Faust puts them into any table
    await member.be_assigned(1, 2, generation=2)
    assert [store.owned() for store in member.stores] == [[1, 2], [1, 2]]
    assert not member.owners.holds([2]) and not member.owners.is_ready()
    await member.recovered(generation=2)
    assert member.owners.holds([1, 2]) and not member.owners.holds([0])
    assert member.consumer.flow_active and not member.app.rebalancing


async def test_recovery_that_ends_after_the_next_assignment_makes_nothing_ready(member: Member) -> None:
    """The last steps of one recovery and the first of the next one have turns of the loop between them."""
    await member.begin()
    await member.be_assigned(0, 1, generation=1)
    recovery: Any = member.app.tables.recovery
    recovery.signal_recovery_start.clear()
    await member.begin()
    await member.be_assigned(1, 2, generation=2)
    member.app.tables.on_actives_ready()  # that of the first one
    member.app.on_rebalance_end()
    assert not member.owners.is_ready()
    await member.recovered(generation=2)
    assert member.owners.holds([1, 2])
