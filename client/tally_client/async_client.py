"""The client for asyncio: as `client`, on the loop of the application, without a thread."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tally_client import lifetimes
from tally_client.answers import Reply
from tally_client.async_channel import AsyncChannel
from tally_client.async_sender import AsyncSender, Signal
from tally_client.async_transport import AsyncTransport
from tally_client.client import FLUSH_S
from tally_client.delivery import Hold, Post, Settle, Step, deliver
from tally_client.errors import DeliveryError
from tally_client.events import EventFields, QueuedEvent
from tally_client.hooks import Composer, Hooks
from tally_client.options import Options, rules_of, spool_of
from tally_client.outbox import Stats
from tally_client.outcomes import Outcome
from tally_client.tokens import Credentials, api_key

if TYPE_CHECKING:
    from typing_extensions import Unpack


class AsyncAnalyticsClient:
    """Sends events to Tally in batches, from a task of its own.

    All calls come from one loop at a time. What is queued when a loop ends is sent on the next one, or spooled or told
    when the process ends. A canceled call leaves the client as sound as it was.

    Args:
        url: of the gateway.
        credentials: who asks; a text is an API key. None asks without.
        options: everything else. Callbacks are plain functions, and run on the loop.

    Raises:
        ValueError: the URL is none of a server.
        SpoolError: the spool's file cannot be opened.
    """

    def __init__(self, url: str, credentials: Credentials | str | None = None, options: Options | None = None) -> None:
        self._options = options or Options()
        transport = AsyncTransport(url, timeout_s=self._options.request_timeout_s, tls=self._options.tls)
        given = api_key(credentials) if isinstance(credentials, str) else credentials
        self._channel = AsyncChannel(transport, given, rules_of(self._options))
        self._hooks = Hooks(self._options)
        self._composer = Composer(self._options, self._hooks)
        self._spool = spool_of(self._options)
        self._begin()
        lifetimes.opened(self)

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._closed, self._closing = False, Signal()
        self._sender = AsyncSender(self._options, self._hooks, self._channel, self._spool)

    async def capture(
        self,
        event_type: str,
        user_id: str | None = None,
        properties: Mapping[str, Any] | None = None,
        *,
        durable: bool | None = None,
        **fields: Unpack[EventFields],
    ) -> str | None:
        """Take an event to be sent; as `AnalyticsClient.capture`.

        It waits only for room (with `block`), for the disk (for events that go to the spool) or, with `sync`, for the
        server. Canceled meanwhile, an event that waits for room is not taken; one that waits for the disk is.
        """
        if self._pid != os.getpid():
            self.become_child()
        event = self._composer.queued(event_type, user_id, properties, fields)
        if isinstance(event, QueuedEvent):
            if self._options.sync:
                return await self._deliver_now(event)
            taken = await self._sender.enqueue(event, durable=self._options.durable if durable is None else durable)
            return event.event_id if taken else None
        if event is not None:
            self._sender.note([event])
            if self._options.sync:
                raise DeliveryError(event.code, event.detail, event.event_id)
        return None

    async def _deliver_now(self, event: QueuedEvent) -> str:
        outcome: Outcome | None = None
        steps = deliver([event], self._channel.rules)
        reply: Reply | Sequence[QueuedEvent] | None = None
        try:
            while not self._closed:
                step = steps.send(reply)
                reply = await self._do(step)
                if isinstance(step, Settle):
                    (outcome,) = step.outcomes
        except StopIteration:
            pass
        if outcome is None or not outcome.delivered:
            raise DeliveryError(outcome.code if outcome else "closed", outcome.detail if outcome else "", event.event_id)
        return event.event_id

    async def _do(self, step: Step) -> Reply | Sequence[QueuedEvent] | None:
        if isinstance(step, Hold):
            return step.events
        if isinstance(step, Post):
            return await self._channel.send(step.request)
        if isinstance(step, Settle):
            self._sender.note(step.outcomes)
        else:
            await self._closing.wait(self._options.clock.wait_s(step.seconds))
        return None

    async def flush(self, timeout_s: float = FLUSH_S) -> bool:
        """Send what was captured so far at once, and wait for it; as `AnalyticsClient.flush`."""
        return await self._sender.flush(timeout_s)

    async def close(self, timeout_s: float | None = None) -> None:
        """Flush, stop, and spool the rest, or tell it as `not_sent`; as `AnalyticsClient.close`."""
        lifetimes.closed(self)
        self._closed = True
        self._closing.fire()
        await self._sender.close(self._options.exit_timeout_s if timeout_s is None else timeout_s)

    def stats(self) -> Stats:
        """Return what this process has captured, delivered and lost so far."""
        return self._sender.stats()

    async def __aenter__(self) -> AsyncAnalyticsClient:
        if self._spool is not None:
            self._sender.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # What the process does.

    def become_child(self) -> None:
        """Begin anew in a forked child: the parent sends what it has, on its own loop."""
        if self._pid == os.getpid():
            return
        self._channel.forget()
        if self._spool is not None:
            self._spool.forget()
        self._begin()

    def end(self, timeout_s: float) -> None:
        """Spool or tell what is left: the process ends."""
        self._closed = True
        self._sender.end()
