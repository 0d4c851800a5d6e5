"""The client for threads: `capture` takes an event in microseconds, a thread sends it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tally_client import lifetimes
from tally_client.channel import Channel
from tally_client.errors import DeliveryError
from tally_client.events import EventFields, QueuedEvent
from tally_client.hooks import Composer, Hooks
from tally_client.immediate import Immediate
from tally_client.options import Options, rules_of, spool_of
from tally_client.outbox import Stats
from tally_client.sender import Sender
from tally_client.tokens import Credentials, SharedCredentials, api_key
from tally_client.transport import HttpTransport

if TYPE_CHECKING:
    from typing_extensions import Unpack

FLUSH_S = 10.0
"""What `flush` may take where its caller does not say."""


class AnalyticsClient:
    """Sends events to Tally in batches, from a thread of its own. For threads, and through forks: each process sends its own.

    Args:
        url: of the gateway.
        credentials: who asks; a text is an API key. None asks without.
        options: everything else.

    Raises:
        ValueError: the URL is none of a server.
        SpoolError: the spool's file cannot be opened.
    """

    def __init__(self, url: str, credentials: Credentials | str | None = None, options: Options | None = None) -> None:
        self._options = options or Options()
        transport = HttpTransport(url, timeout_s=self._options.request_timeout_s, tls=self._options.tls)
        given = api_key(credentials) if isinstance(credentials, str) else credentials
        self._channel = Channel(transport, SharedCredentials(given, transport.post), rules_of(self._options))
        self._hooks = Hooks(self._options)
        self._composer = Composer(self._options, self._hooks)
        self._spool = spool_of(self._options)
        self._begin()
        if self._spool is not None:
            self._sender.start()
        lifetimes.opened(self)

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._sender = Sender(self._options, self._hooks, self._channel, self._spool)
        self._immediate = Immediate(self._channel, self._sender.note)

    def capture(
        self,
        event_type: str,
        user_id: str | None = None,
        properties: Mapping[str, Any] | None = None,
        *,
        durable: bool | None = None,
        **fields: Unpack[EventFields],
    ) -> str | None:
        """Take an event to be sent.

        Args:
            event_type: what happened.
            user_id: who did it; or give *anonymous_id*.
            properties: what is to be known about it: anything that has JSON. Encoded before this returns.
            durable: write it to the spool's disk first; as the options say by default.
            fields: the other fields of an event.

        Returns:
            The event's id; None where it was not taken, which `on_error` is told of. Delivery is at least once by that
            id, which the server counts once.

        Raises:
            DeliveryError: with the option `sync` only.
        """
        if self._pid != os.getpid():
            self.become_child()
        event = self._composer.queued(event_type, user_id, properties, fields)
        if isinstance(event, QueuedEvent):
            if self._options.sync:
                return self._immediate.deliver(event)
            taken = self._sender.enqueue(event, durable=self._options.durable if durable is None else durable)
            return event.event_id if taken else None
        if event is not None:
            self._sender.note([event])
            if self._options.sync:
                raise DeliveryError(event.code, event.detail, event.event_id)
        return None

    def flush(self, timeout_s: float = FLUSH_S) -> bool:
        """Send what was captured so far at once, and wait for it.

        Args:
            timeout_s: for everything together.

        Returns:
            Whether each of these events was delivered or failed for good, and their callbacks have run. In a callback it
            does not wait: it says at once whether anything is left.
        """
        return self._sender.flush(timeout_s)

    def close(self, timeout_s: float | None = None) -> None:
        """Flush, stop, and spool the rest, or tell it as `not_sent`. Closing again does nothing.

        Args:
            timeout_s: for everything together; `exit_timeout_s` by default.
        """
        lifetimes.closed(self)
        self._immediate.close()
        self._sender.close(self._options.exit_timeout_s if timeout_s is None else timeout_s)

    def stats(self) -> Stats:
        """Return what this process has captured, delivered and lost so far."""
        return self._sender.stats()

    def __enter__(self) -> AnalyticsClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # What the process does.

    def become_child(self) -> None:
        """Begin anew in a forked child: the parent sends what it has, with its own thread, connections and claims."""
        if self._pid == os.getpid():
            return
        self._channel.forget()
        if self._spool is not None:
            self._spool.forget()
        self._begin()

    def end(self, timeout_s: float) -> None:
        """Close because the process ends."""
        self.close(min(timeout_s, self._options.exit_timeout_s))
