"""The task that sends: what `sender` does with a thread, on the loop of the application."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

from tally_client import lifetimes
from tally_client.answers import Reply
from tally_client.async_channel import AsyncChannel
from tally_client.delivery import Hold, Pause, Post, Settle, Step, deliver
from tally_client.errors import SpoolError
from tally_client.events import QueuedEvent
from tally_client.hooks import Hooks
from tally_client.options import Options
from tally_client.outbox import Offer, Outbox, Stats
from tally_client.outcomes import Outcome, failed
from tally_client.sender import CLOSE_RESERVE_S, StoppedError
from tally_client.spool import Spool
from tally_client.spooling import SpoolTurns

log = logging.getLogger(__name__)
T = TypeVar("T")


class Signal:
    """Something has changed: wakes every task that waits, and holds nothing that a canceled one could leave locked."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()

    def fire(self) -> None:
        """Wake who waits now."""
        for waiter in self._waiting:
            _wake(waiter)

    async def wait(self, timeout_s: float | None) -> None:
        """Return at the next change, or after so long.

        `asyncio.wait_for` would do, but before Python 3.12 it forgets a cancellation that comes together with the change.
        """
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        self._waiting.add(waiter)
        timer = None if timeout_s is None else loop.call_later(timeout_s, _wake, waiter)
        try:
            await waiter
        finally:
            self._waiting.discard(waiter)
            if timer is not None:
                timer.cancel()


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class AsyncSender:
    """The queue of a client and the task that empties it; started by the first event, and again on another loop.

    Every method runs on the loop; the spool's work runs in its executor.

    Args:
        options: limits and policies.
        hooks: told of every outcome.
        channel: to the server.
        spool: where events wait that memory must not or cannot hold.
    """

    def __init__(self, options: Options, hooks: Hooks, channel: AsyncChannel, spool: Spool | None) -> None:
        self._options = options
        self._hooks = hooks
        self._channel = channel
        self._clock = options.clock
        self._outbox = Outbox(options)
        self._spool = spool
        self._turns = SpoolTurns(present=spool is not None, wait_s=options.batch_wait_s, events_max=options.batch_events_max)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._work, self._done = Signal(), Signal()
        self._stopped = False
        self._restarted = False

    # What callers do.

    async def enqueue(self, event: QueuedEvent, *, durable: bool) -> bool:
        """Take an event, to memory or to the spool, as the policy says; return whether it was taken.

        Canceled while it waits for room, the event was not taken; while it waits for the disk, it was.
        """
        self._ensure_running()
        if durable:
            return await self._to_spool(event, durably=True)
        offer = self._outbox.offer(event)
        if offer is Offer.REFUSED:
            return await self._overflow(event)
        if offer is Offer.WAKE:
            self._work.fire()
        return True

    async def _overflow(self, event: QueuedEvent) -> bool:
        """Do with an event that found no room, or a closed client, what the policy says."""
        policy = self._options.when_full
        if policy == "spool" and not self._stopped:
            return await self._to_spool(event, durably=False)
        taken = False
        dropped: list[QueuedEvent] = []
        if policy == "drop_oldest":
            dropped = self._outbox.make_room(len(event.body))
            taken = self._outbox.offer(event) is not Offer.REFUSED
        elif policy == "block":
            taken = await self._wait_for_room(event)
        self._work.fire()
        lost = dropped if taken else [*dropped, event]
        self.note(failed(lost, "closed" if self._stopped else "queue_full"))
        return taken

    async def _wait_for_room(self, event: QueuedEvent) -> bool:
        until_s = self._clock.elapsed_s() + self._options.block_timeout_s
        while not self._stopped:
            if self._outbox.offer(event) is not Offer.REFUSED:
                return True
            left_s = until_s - self._clock.elapsed_s()
            if left_s <= 0:
                break
            await self._done.wait(self._clock.wait_s(left_s))
        return False

    async def _to_spool(self, event: QueuedEvent, *, durably: bool) -> bool:
        if self._spool is None or self._stopped:
            self.note(failed([event], "closed" if self._stopped else "spool_failed", "there is no spool"))
            return False
        writing = asyncio.ensure_future(self._on_disk(functools.partial(self._spool.put, [event], durably=durably)))
        writing.add_done_callback(functools.partial(self._written, event))
        try:
            refused = await asyncio.shield(writing)
        except SpoolError:
            return False
        return all(outcome.event_id != event.event_id for outcome in refused)

    def _written(self, event: QueuedEvent, writing: asyncio.Future[list[Outcome]]) -> None:
        """Count what the disk took, whether or not somebody still waits for it."""
        if writing.cancelled():
            return
        error = writing.exception()
        refused = failed([event], "spool_failed", str(error)) if error else writing.result()
        self._outbox.accept_elsewhere(int(all(outcome.event_id != event.event_id for outcome in refused)))
        self._turns.written(self._clock.elapsed_s())
        self._work.fire()
        self.note(refused)

    def note(self, outcomes: Sequence[Outcome]) -> None:
        """Count and tell outcomes of events that were never on their way."""
        self._outbox.settle(outcomes)
        self._hooks.tell(outcomes)

    async def flush(self, timeout_s: float) -> bool:
        """Send everything taken so far without waiting for full batches; return whether it is done, in time."""
        until_s = self._clock.elapsed_s() + timeout_s
        target, spool_target = self._outbox.flush(), self._turns.flush()
        self._work.fire()
        while not (self._outbox.done_through >= target and self._turns.emptied(spool_target)):
            left_s = until_s - self._clock.elapsed_s()
            if left_s <= 0 or self._stopped or asyncio.current_task() is self._task:
                return False
            self._ensure_running()
            await self._done.wait(self._clock.wait_s(left_s))
        return True

    def start(self) -> None:
        """Begin before the first event: the spool may hold some of an earlier process."""
        self._ensure_running()

    async def close(self, timeout_s: float) -> None:
        """Flush, then stop; spool what is left, or count and tell it as `not_sent`. Closing again does nothing."""
        if self._stopped:
            return
        try:
            if self._task is not None:
                await self.flush(max(0.0, timeout_s - CLOSE_RESERVE_S))
        finally:
            self.end()

    def end(self) -> None:
        """Stop without waiting for anything but the disk; of use when the loop is gone."""
        if self._stopped:
            return
        self._stopped = True
        if self._loop is not None and not self._loop.is_closed():
            self._done.fire()
            if self._task is not None:
                self._task.cancel()
        self._channel.close()
        left = [event for event in self._outbox.close() if not event.spooled]
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
        return self._outbox.stats()

    # What the task does.

    def _ensure_running(self) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:  # Another asyncio.run: nothing of the first one's loop may be touched.
            self._loop, self._task = loop, None
            self._work, self._done = Signal(), Signal()
        if not self._stopped and (self._task is None or self._task.done()):
            lifetimes.watch_multiprocessing()
            self._outbox.requeue()
            self._restarted = True
            self._task = loop.create_task(self._run())

    async def _on_disk(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(None, work)

    async def _run(self) -> None:
        while not self._stopped:
            batch = await self._next()
            try:
                await self._deliver(batch)
            except StoppedError:
                return
            except Exception as error:  # noqa: BLE001 - a sender that dies would lose everything that comes after
                log.error("a batch of %d events was given up: %s", len(batch), type(error).__name__)
                await self._settle(failed(batch, "internal_error"))

    async def _next(self) -> Sequence[QueuedEvent]:
        """Wait until something is due, and return it; nothing where the client stops."""
        while not self._stopped:
            now_s = self._clock.elapsed_s()
            due_s = self._outbox.due_in_s(now_s)
            if due_s == 0 and not self._turns.first(now_s):
                return self._outbox.take()
            if not self._turns.due(now_s):
                await self._work.wait(self._turns.wait_s(due_s, now_s, self._clock))
                continue
            batch = await self._claim(self._turns.generation)
            if batch:
                return batch
        return ()

    async def _claim(self, generation: int) -> Sequence[QueuedEvent]:
        if self._spool is None:
            return ()
        options = self._options
        limits = {"events_max": options.batch_events_max, "bytes_max": options.batch_bytes_max - 1_000}
        # A loop that ended in the middle of a claim has left what it claimed to nobody.
        held = self._outbox.spooled_ids() if self._restarted else None
        try:
            claim = await self._on_disk(functools.partial(self._spool.claim, **limits, held=held))
        except SpoolError as error:
            log.warning("%s", error)
            self._turns.broken(self._clock.elapsed_s())
            return ()
        self._restarted = False
        self.note(claim.failed)
        self._outbox.claimed(claim.events)
        self._turns.claimed(generation, len(claim.events), self._clock.elapsed_s())
        self._done.fire()
        return claim.events

    async def _deliver(self, batch: Sequence[QueuedEvent]) -> None:
        steps = deliver(batch, self._channel.rules)
        reply: Reply | Sequence[QueuedEvent] | None = None
        try:
            while batch:
                reply = await self._do(steps.send(reply))
        except StopIteration:
            return

    async def _do(self, step: Step) -> Reply | Sequence[QueuedEvent] | None:
        if self._stopped:
            raise StoppedError
        if isinstance(step, Hold):
            return await self._hold(step.events)
        if isinstance(step, Post):
            return await self._channel.send(step.request)
        if isinstance(step, Settle):
            await self._settle(step.outcomes)
        else:
            await self._pause(step)
        return None

    async def _hold(self, events: Sequence[QueuedEvent]) -> Sequence[QueuedEvent]:
        if self._spool is None or not any(event.spooled for event in events):
            return events
        try:
            held = await self._on_disk(functools.partial(self._spool.hold, events))
        except SpoolError as error:  # They were ours, and a lease is long: sending twice is the lesser harm.
            log.warning("%s", error)
            return events
        ours = {event.event_id for event in held}
        self._outbox.land(event for event in events if event.event_id not in ours)
        self._done.fire()
        return held

    async def _settle(self, outcomes: Sequence[Outcome]) -> None:
        spooled = [outcome.event_id for outcome in outcomes if outcome.queued.spooled]
        if self._spool is not None and spooled:
            try:
                await self._on_disk(functools.partial(self._spool.remove, spooled))
            except SpoolError as error:
                log.warning("done events stay in the spool for now: %s", error)
        self._hooks.tell(outcomes)
        self._outbox.settle(outcomes)
        self._done.fire()

    async def _pause(self, step: Pause) -> None:
        await asyncio.sleep(self._clock.wait_s(step.seconds))
