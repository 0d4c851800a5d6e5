"""Play the coordinator of the workers' group: who owns which partition in which generation, and whose commits count.

A rebalance begins when a worker joins or is given up (killed, or paused for longer than the session timeout). Living
members notice at some time, give back what they have, and join; when all have, a new generation begins. A member that was
given up notices at some time after it has woken: until then it goes on as if nothing had happened. Its commits are refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import Any

from tests.simulation.events import PARTITIONS


class Group:
    """The members and the commits of one consumer group.

    Attributes:
        generation: number of the last completed rebalance.
        members: those that the coordinator counts on, joined or not.
        waiting: members that have joined the coming generation, with what tells them of it.
        owners: the owner of each partition in the current generation.
        committed: next offset by partition, for those that have one.
        took: called with partition and offset of every commit that counts.
    """

    def __init__(self, rng: Random) -> None:
        self.generation = 0
        self.rebalancing = False
        self.members: set[int] = set()
        self.waiting: dict[int, asyncio.Future[tuple[int, list[int]]]] = {}
        self.owners: dict[int, int] = {}
        self.committed: dict[int, int] = {}
        self.took: Callable[[int, int], None] = lambda partition, offset: None
        self._rng = rng

    def join(self, member: int) -> asyncio.Future[tuple[int, list[int]]]:
        """Ask for a place in the next generation; the result is its number and the partitions."""
        self.members.add(member)
        self.rebalancing = True
        future = asyncio.get_running_loop().create_future()
        self.waiting[member] = future
        return future

    def expel(self, member: int) -> None:
        """Give a member up."""
        self.members.discard(member)
        self.rebalancing = True
        future = self.waiting.pop(member, None)
        if future is not None and not future.done():
            future.set_result((self.generation, []))  # it was not known any more, and must join again

    def may_complete(self) -> bool:
        """Return whether every member has joined."""
        return self.rebalancing and bool(self.members) and self.members == self.waiting.keys()

    def complete(self) -> None:
        """Begin the next generation, its partitions given out anyhow."""
        self.generation += 1
        self.rebalancing = False
        members = sorted(self.waiting)
        self._rng.shuffle(members)
        self.owners = {partition: members[partition % len(members)] for partition in range(PARTITIONS)}
        for member, future in self.waiting.items():
            mine = [partition for partition, owner in self.owners.items() if owner == member]
            if not future.done():
                future.set_result((self.generation, mine))
        self.waiting = {}

    def accepts(self, member: int, generation: int) -> bool:
        """Return whether a commit of a member counts: it must be of this generation."""
        return member in self.members and generation == self.generation and member not in self.waiting

    def commit(self, member: int, generation: int, offsets: dict[Any, int]) -> bool:
        """Take a commit, or refuse it."""
        if not self.accepts(member, generation):
            return False
        for tp, offset in offsets.items():
            self.committed[tp.partition] = offset
            self.took(tp.partition, offset)
        return True
