"""Deliver one event before the caller goes on, for clients with `sync=True`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from tally_client.answers import Reply
from tally_client.channel import Channel
from tally_client.delivery import Hold, Post, Settle, Step, deliver
from tally_client.errors import DeliveryError
from tally_client.events import QueuedEvent
from tally_client.outcomes import Outcome


class Immediate:
    """Runs deliveries in the threads of their callers.

    Args:
        channel: to the server.
        note: counts and tells outcomes.
    """

    def __init__(self, channel: Channel, note: Callable[[Sequence[Outcome]], None]) -> None:
        self._channel = channel
        self._note = note
        self._closed = threading.Event()

    def deliver(self, event: QueuedEvent) -> str:
        """Return the event's id when the server has it.

        Raises:
            DeliveryError: it does not, and will not.
        """
        outcome: Outcome | None = None
        steps = deliver([event], self._channel.rules)
        reply: Reply | Sequence[QueuedEvent] | None = None
        try:
            while not self._closed.is_set():
                step = steps.send(reply)
                reply = self._do(step)
                if isinstance(step, Settle):
                    (outcome,) = step.outcomes
        except StopIteration:
            pass
        if outcome is None or not outcome.delivered:
            raise DeliveryError(outcome.code if outcome else "closed", outcome.detail if outcome else "", event.event_id)
        return event.event_id

    def _do(self, step: Step) -> Reply | Sequence[QueuedEvent] | None:
        if isinstance(step, Hold):
            return step.events
        if isinstance(step, Post):
            return self._channel.send(step.request)
        if isinstance(step, Settle):
            self._note(step.outcomes)
        else:
            self._closed.wait(self._channel.rules.clock.wait_s(step.seconds))
        return None

    def close(self) -> None:
        """End what waits for another attempt."""
        self._closed.set()
