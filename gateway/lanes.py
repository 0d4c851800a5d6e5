"""Hold the batches of each partition on their way to Kafka, and who is to be told what became of the events in them."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from gateway.batch_builder import RunBuilder

log = logging.getLogger(__name__)


class Refusal(NamedTuple):
    """Why an event is not known to be stored.

    Attributes:
        code: for programs.
        message: for people; says whether the event may be stored all the same.
    """

    code: str
    message: str


Fate = Refusal | None
"""None: stored."""
Tell = Callable[[Fate], None]
"""Takes an event's fate; called once, and must not raise."""
TellMany = Callable[[Fate, Sequence[int]], None]
"""Takes a fate and the indices of the events that have it; called once for each batch they are in, and must not raise."""


class Batch:
    """Events of one partition that are sent, and acknowledged, together.

    Attributes:
        told_by_others: how many events have no `Tell` of their own, because the one of another tells their fate too.
    """

    __slots__ = ("builder", "bytes", "expiry", "handed_over", "lane", "sent_s", "settled", "tells", "told_by_others")

    def __init__(self, builder: RunBuilder, lane: Lane) -> None:
        self.builder = builder
        self.lane = lane
        self.sent_s = 0.0
        self.bytes = 0
        self.tells: list[Tell] = []
        self.told_by_others = 0
        self.expiry: asyncio.TimerHandle | None = None
        self.handed_over = False
        self.settled = False

    @property
    def count(self) -> int:
        """How many events it has."""
        return len(self.tells) + self.told_by_others

    def settle(self, fate: Fate) -> None:
        """Tell every event its fate, once."""
        if self.settled:
            return
        self.settled = True
        if self.expiry is not None:
            self.expiry.cancel()
        for tell in self.tells:
            try:
                tell(fate)
            except Exception:  # One request's bug must not keep the others from their answers.
                log.exception("an event's fate could not be told")


class Lane:
    """The batches of one partition: full ones wait in order, the newest is open."""

    __slots__ = ("due", "open", "partition", "ready", "wake")

    def __init__(self, partition: int) -> None:
        self.partition = partition
        self.ready: deque[Batch] = deque()
        self.open: Batch | None = None
        self.due = False
        self.wake = asyncio.Event()

    def send_open(self) -> None:
        """Let the open batch go as soon as the lane is free; until then it may still grow."""
        if self.open is not None:
            self.due = True
            self.wake.set()

    def close_open(self) -> None:
        """Put the open batch at the end of those that wait, because it is full."""
        if self.open is not None:
            self.ready.append(self.open)
            self.open = None
            self.due = False
            self.wake.set()

    def drop(self, batch: Batch) -> None:
        """Forget a batch that is not to be sent any more."""
        if self.open is batch:
            self.open = None
            self.due = False
        else:
            self.ready.remove(batch)

    async def next(self) -> Batch:
        """Return the oldest batch that may be sent; waits for one."""
        while True:
            if self.ready:
                return self.ready.popleft()
            if self.due and self.open is not None:
                batch, self.open, self.due = self.open, None, False
                return batch
            self.wake.clear()
            await self.wake.wait()
