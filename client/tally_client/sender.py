"""The thread that sends: takes batches when they are due, from memory and from the spool, and brings each to its end."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

from tally_client import lifetimes
from tally_client.answers import Reply
from tally_client.channel import Channel
from tally_client.delivery import Hold, Pause, Post, Settle, Step, deliver
from tally_client.errors import SpoolError
from tally_client.events import QueuedEvent
from tally_client.hooks import Hooks
from tally_client.options import Options
from tally_client.outbox import Offer, Outbox, Stats
from tally_client.outcomes import Outcome, failed
from tally_client.spool import Spool
from tally_client.spooling import SpoolTurns

log = logging.getLogger(__name__)

CLOSE_RESERVE_S = 0.8
"""Of the time for closing: what is kept back for writing the rest to the spool."""
JOIN_S = 0.2


class StoppedError(Exception):
    """The client is closing; what is on its way stays in the outbox."""


class Sender:
    """The queue of a client and the thread that empties it; started by the first event.

    Args:
        options: limits and policies.
        hooks: told of every outcome.
        channel: to the server.
        spool: where events wait that memory must not or cannot hold.
    """

    def __init__(self, options: Options, hooks: Hooks, channel: Channel, spool: Spool | None) -> None:
        self._options = options
        self._hooks = hooks
        self._channel = channel
        self._clock = options.clock
        self._outbox = Outbox(options)
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._done = threading.Condition(self._lock)
        self._spool = spool
        self._turns = SpoolTurns(present=spool is not None, wait_s=options.batch_wait_s, events_max=options.batch_events_max)
        self._thread: threading.Thread | None = None
        self._stopped = False

    # What callers do.

    def enqueue(self, event: QueuedEvent, *, durable: bool) -> bool:
        """Take an event, to memory or to the spool, as the policy says; return whether it was taken. Never raises."""
        if self._thread is None and not self._stopped:
            self.start()
        if durable:
            return self._to_spool(event, durably=True)
        offer = self._outbox.offer(event)
        if offer is Offer.REFUSED:
            return self._overflow(event)
        if offer is Offer.WAKE:
            with self._lock:
                self._work.notify()
        return True

    def _overflow(self, event: QueuedEvent) -> bool:
        """Do with an event that found no room, or a closed client, what the policy says."""
        policy = self._options.when_full
        if policy == "spool" and not self._stopped:
            return self._to_spool(event, durably=False)
        with self._lock:
            taken = False
            dropped: list[QueuedEvent] = []
            if policy == "drop_oldest":
                dropped = self._outbox.make_room(len(event.body))
                taken = self._outbox.offer(event) is not Offer.REFUSED
            elif policy == "block" and threading.current_thread() is not self._thread:
                taken = self._wait_for_room(event)
            self._work.notify()
        lost = dropped if taken else [*dropped, event]
        self.note(failed(lost, "closed" if self._stopped else "queue_full"))
        return taken

    def _wait_for_room(self, event: QueuedEvent) -> bool:
        until_s = self._clock.elapsed_s() + self._options.block_timeout_s
        while not self._stopped:
            if self._outbox.offer(event) is not Offer.REFUSED:
                return True
            left_s = until_s - self._clock.elapsed_s()
            if left_s <= 0:
                break
            self._done.wait(self._clock.wait_s(left_s))
        return False

    def _to_spool(self, event: QueuedEvent, *, durably: bool) -> bool:
        if self._spool is None or self._stopped:
            self.note(failed([event], "closed" if self._stopped else "spool_failed", "there is no spool"))
            return False
        try:
            refused = self._spool.put([event], durably=durably)
        except SpoolError as error:
            refused = failed([event], "spool_failed", str(error))
        taken = all(outcome.event_id != event.event_id for outcome in refused)
        with self._lock:
            self._outbox.accept_elsewhere(int(taken))
            self._turns.written(self._clock.elapsed_s())
            self._work.notify()
        self.note(refused)
        return taken

    def note(self, outcomes: Sequence[Outcome]) -> None:
        """Count and tell outcomes of events that were never on their way."""
        with self._lock:
            self._outbox.settle(outcomes)
        self._hooks.tell(outcomes)

    def flush(self, timeout_s: float) -> bool:
        """Send everything taken so far without waiting for full batches; return whether it is done, in time.

        In a callback on the sender's own thread it cannot wait for itself: it says at once whether anything is left.
        """
        until_s = self._clock.elapsed_s() + timeout_s
        with self._lock:
            target, spool_target = self._outbox.flush(), self._turns.flush()
            self._work.notify()
            while not (self._outbox.done_through >= target and self._turns.emptied(spool_target)):
                left_s = until_s - self._clock.elapsed_s()
                if left_s <= 0 or self._stopped or threading.current_thread() is self._thread:
                    return False
                if self._thread is None:
                    self._start()
                if self._thread is None:
                    return False
                self._done.wait(self._clock.wait_s(left_s))
        return True

    def start(self) -> None:
        """Begin before the first event: the spool may hold some of an earlier process."""
        with self._lock:
            if self._thread is None:
                self._start()

    def close(self, timeout_s: float) -> None:
        """Flush, then stop; spool what is left, or count and tell it as `not_sent`. Closing again does nothing."""
        if self._thread is not None and not self._stopped:
            self.flush(max(0.0, timeout_s - CLOSE_RESERVE_S))
        with self._lock:
            if self._stopped:
                return
            self._stopped = True
            self._work.notify_all()
            self._done.notify_all()
        self._channel.close()
        if self._thread is not None and threading.current_thread() is not self._thread:
            self._thread.join(JOIN_S)
        with self._lock:
            left = [event for event in self._outbox.close() if not event.spooled]
        self._put_away(left)

    def _put_away(self, left: Sequence[QueuedEvent]) -> None:
        lost: Sequence[Outcome] = failed(left, "not_sent", "the client was closed before it could")
        if self._spool is not None:
            try:
                lost = self._spool.put(left, durably=True) if left else []
                self._spool.close()
            except SpoolError as error:
                log.warning("the spool did not take what was left: %s", error)
        self.note(lost)
        if lost:
            log.warning("%d events were not sent before the client closed", len(lost))

    def stats(self) -> Stats:
        """Return the counters as they are now."""
        with self._lock:
            return self._outbox.stats()

    # What the thread does.

    def _start(self) -> None:
        lifetimes.watch_multiprocessing()
        thread = threading.Thread(target=self._run, name="tally-sender", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # The interpreter is going down, or has all its threads: `close` spools or tells what there is.
            log.warning("the sender's thread cannot be started")
        else:
            self._thread = thread

    def _run(self) -> None:
        while not self._stopped:
            batch = self._next()
            try:
                self._deliver(batch)
            except StoppedError:
                return
            except Exception as error:  # noqa: BLE001 - a sender that dies would lose everything that comes after
                log.error("a batch of %d events was given up: %s", len(batch), type(error).__name__)
                self._settle(failed(batch, "internal_error"))

    def _next(self) -> Sequence[QueuedEvent]:
        """Wait until something is due, and return it; nothing where the client stops."""
        while True:
            with self._lock:
                while not self._stopped:
                    now_s = self._clock.elapsed_s()
                    due_s = self._outbox.due_in_s(now_s)
                    if due_s == 0 and not self._turns.first(now_s):
                        return self._outbox.take()
                    if self._turns.due(now_s):
                        break
                    self._work.wait(self._turns.wait_s(due_s, now_s, self._clock))
                else:
                    return ()
                generation = self._turns.generation
            batch = self._claim(generation)
            if batch:
                return batch

    def _claim(self, generation: int) -> Sequence[QueuedEvent]:
        if self._spool is None:
            return ()
        options = self._options
        try:
            claim = self._spool.claim(events_max=options.batch_events_max, bytes_max=options.batch_bytes_max - 1_000)
        except SpoolError as error:
            log.warning("%s", error)
            with self._lock:
                self._turns.broken(self._clock.elapsed_s())
            return ()
        self.note(claim.failed)
        with self._lock:
            self._outbox.claimed(claim.events)
            self._turns.claimed(generation, len(claim.events), self._clock.elapsed_s())
            self._done.notify_all()
        return claim.events

    def _deliver(self, batch: Sequence[QueuedEvent]) -> None:
        steps = deliver(batch, self._channel.rules)
        reply: Reply | Sequence[QueuedEvent] | None = None
        try:
            while batch:
                reply = self._do(steps.send(reply))
        except StopIteration:
            return

    def _do(self, step: Step) -> Reply | Sequence[QueuedEvent] | None:
        if self._stopped:
            raise StoppedError
        if isinstance(step, Hold):
            return self._hold(step.events)
        if isinstance(step, Post):
            return self._channel.send(step.request)
        if isinstance(step, Settle):
            self._settle(step.outcomes)
        else:
            self._pause(step)
        return None

    def _hold(self, events: Sequence[QueuedEvent]) -> Sequence[QueuedEvent]:
        if self._spool is None or not any(event.spooled for event in events):
            return events
        try:
            held = self._spool.hold(events)
        except SpoolError as error:  # They were ours, and a lease is long: sending twice is the lesser harm.
            log.warning("%s", error)
            return events
        ours = {event.event_id for event in held}
        with self._lock:
            self._outbox.land(event for event in events if event.event_id not in ours)
            self._done.notify_all()
        return held

    def _settle(self, outcomes: Sequence[Outcome]) -> None:
        """Tell first and count then: who waits in `flush` may rely on its callbacks having run."""
        spooled = [outcome.event_id for outcome in outcomes if outcome.queued.spooled]
        if self._spool is not None and spooled:
            try:
                self._spool.remove(spooled)
            except SpoolError as error:
                log.warning("done events stay in the spool for now: %s", error)
        self._hooks.tell(outcomes)
        with self._lock:
            self._outbox.settle(outcomes)
            self._done.notify_all()

    def _pause(self, step: Pause) -> None:
        until_s = self._clock.elapsed_s() + step.seconds
        with self._lock:
            while not self._stopped:
                left_s = until_s - self._clock.elapsed_s()
                if left_s <= 0:
                    return
                self._work.wait(self._clock.wait_s(left_s))
        raise StoppedError
