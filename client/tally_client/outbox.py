"""Events in memory that are not done: a bounded queue, what is on its way, and counters."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import NamedTuple

from tally_client.events import QueuedEvent
from tally_client.options import Options
from tally_client.outcomes import Outcome

ENVELOPE_BYTES = len(b'{"batch":[]}')
APPENDING_S = 0.001
"""A caller between counting its event and appending it is looked for again after so long, …"""
APPENDING_LOOKS_MAX = 100
"""… and so often when the client closes; only one that was killed in between takes longer."""


class Stats(NamedTuple):
    """What a client has done so far, in this process.

    Attributes:
        accepted: events that `capture` took.
        delivered: events that the server has.
        failed: events that it will not get, by code. What `capture` refused is among them, and not in *accepted*.
        waiting: accepted events in memory that are neither; those in the spool are not counted.
    """

    accepted: int
    delivered: int
    failed: Mapping[str, int]
    waiting: int


class Offer(Enum):
    """What became of an offered event."""

    REFUSED = 0
    TAKEN = 1
    WAKE = 2
    """Taken, and the sender has something to do that it may not know of."""


class Outbox:
    """The events of one client, oldest first, each until it is done.

    `offer` may be called by any thread at any time. For everything else its owner holds a lock of its own.

    Args:
        options: limits.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._events_max, self._bytes_max = options.queue_events_max, options.queue_bytes_max
        self._batch_events_max, self._batch_bytes_max = options.batch_events_max, options.batch_bytes_max
        self._room = threading.Lock()
        self._open = True
        self._held = self._held_bytes = 0
        self._enqueued = self._taken = self._queue_bytes = 0
        self._queue: deque[QueuedEvent] = deque()
        self._flight: dict[int, QueuedEvent] = {}  # By identity: a caller may give two events one id.
        self._flight_from = 0
        self._flush_to = 0
        self._elsewhere = 0
        self._delivered = 0
        self._failed: Counter[str] = Counter()

    def offer(self, event: QueuedEvent) -> Offer:
        """Put an event at the end of the queue, if there is room."""
        size = len(event.body)
        with self._room:
            # Nothing is called in here: the interpreter changes threads at calls, and one that holds this lock while it
            # waits for its turn makes every other caller wait for it, 5 ms each.
            fits = self._open and self._held < self._events_max and self._held_bytes + size <= self._bytes_max
            if fits:
                self._held += 1
                self._held_bytes += size
                self._queue_bytes += size
                self._enqueued += 1
                queued, queued_bytes = self._enqueued - self._taken, self._queue_bytes
        if not fits:
            return Offer.REFUSED
        self._queue.append(event)
        if queued in (1, self._batch_events_max) or queued_bytes - size < self._batch_bytes_max <= queued_bytes:
            return Offer.WAKE
        return Offer.TAKEN

    def make_room(self, size: int) -> list[QueuedEvent]:
        """Give up the oldest events that are not on their way, until one of *size* bytes fits; return them."""
        dropped: list[QueuedEvent] = []
        while self._queue and not (self._held < self._events_max and self._held_bytes + size <= self._bytes_max):
            event = self._queue.popleft()
            dropped.append(event)
            self._count_taken([event])
            self._let_go([event])
        return dropped

    def due_in_s(self, now_s: float) -> float | None:
        """Return in how many seconds a batch is to be sent: 0 for now, None while nothing is queued."""
        if not self._queue:
            return None if self._enqueued == self._taken else APPENDING_S
        full = len(self._queue) >= self._batch_events_max or self._queue_bytes >= self._batch_bytes_max
        if full or self.done_through < self._flush_to:
            return 0.0
        return max(0.0, self._queue[0].enqueued_at_s + self._options.batch_wait_s - now_s)

    def take(self) -> list[QueuedEvent]:
        """Take the next batch: at most what one request may have, at least one event; it stays counted until it is done."""
        batch: list[QueuedEvent] = []
        bytes_left = self._batch_bytes_max - ENVELOPE_BYTES
        while self._queue and len(batch) < self._batch_events_max:
            bytes_left -= len(self._queue[0].body) + 1
            if bytes_left < 0 and batch:
                break
            batch.append(self._queue.popleft())
        self.claimed(batch)
        self._count_taken(batch)
        return batch

    def _count_taken(self, events: Sequence[QueuedEvent], sign: int = 1) -> None:
        count = sign * sum(not event.spooled for event in events)
        size = sign * sum(len(event.body) for event in events)
        with self._room:
            self._taken += count
            self._queue_bytes -= size

    def claimed(self, batch: Sequence[QueuedEvent]) -> None:
        """Count events as on their way, such as those that the spool gave."""
        self._flight_from = self._taken
        self._flight.update((id(event), event) for event in batch)

    def spooled_ids(self) -> set[str]:
        """Return the ids of the events in here that the spool has too."""
        return {event.event_id for event in (*self._flight.values(), *self._queue) if event.spooled}

    def requeue(self) -> None:
        """Put what is on its way back to the front: who was sending it has ended."""
        back = list(self._flight.values())
        self._flight.clear()
        self._queue.extendleft(reversed(back))
        self._count_taken(back, -1)

    def settle(self, outcomes: Sequence[Outcome]) -> None:
        """Count events as done, and let go of those on their way."""
        for outcome in outcomes:
            if outcome.delivered:
                self._delivered += 1
            else:
                self._failed[outcome.code] += 1
        self.land([outcome.queued for outcome in outcomes])

    def land(self, events: Iterable[QueuedEvent]) -> None:
        """Let go of those of some events that are on their way: they are done, or another process now sends them."""
        self._let_go([event for event in events if self._flight.pop(id(event), None) is not None])

    def _let_go(self, events: Sequence[QueuedEvent]) -> None:
        own = [len(event.body) for event in events if not event.spooled]
        count, size = len(own), sum(own)
        with self._room:
            self._held -= count
            self._held_bytes -= size

    def accept_elsewhere(self, count: int) -> None:
        """Count events as accepted that went to the spool instead."""
        self._elsewhere += count

    def flush(self) -> int:
        """Make everything queued due now; return what `done_through` must reach for it to be done."""
        self._flush_to = self._enqueued
        return self._flush_to

    @property
    def done_through(self) -> int:
        """The number of enqueued events before which everything is done; batches go one after another."""
        return self._flight_from if self._flight else self._taken

    def close(self) -> list[QueuedEvent]:
        """Refuse every further event; take what is not done out of memory, oldest first, and return it."""
        with self._room:
            self._open = False
        for _ in range(APPENDING_LOOKS_MAX):
            if self._enqueued - self._taken <= len(self._queue):
                break
            time.sleep(APPENDING_S)
        events = [*self._flight.values(), *self._queue]
        self._queue.clear()
        self._flight.clear()
        with self._room:
            self._held = self._held_bytes = self._queue_bytes = 0
            self._taken = self._enqueued
        return events

    def stats(self) -> Stats:
        """Return the counters as they are now."""
        waiting = len(self._queue) + len(self._flight)
        return Stats(self._enqueued + self._elsewhere, self._delivered, dict(self._failed), waiting)
