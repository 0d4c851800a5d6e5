"""What became of an event, said once for each: delivered, or failed for good."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from tally_client.events import QueuedEvent

DELIVERED = frozenset({"ok", "duplicate", "warning"})


class Outcome:
    """The end of one event.

    Attributes:
        event_id: which.
        result: `ok`, `duplicate`, `warning` (kept, and `code` says what is odd about it), or `failed`.
        code: why, in a word: the server's own for what it refused, else `event_too_large`, `invalid_event`, `queue_full`,
            `spool_full`, `spool_failed`, `spool_corrupt`, `too_old`, `retries_exhausted`, `unknown_result`, `not_sent`,
            `before_send_failed`, `credentials_refused`, `http_400` and so on.
        detail: a sentence for people, may be empty.
        queued: the event as it was sent; `event` reads it.
    """

    __slots__ = ("code", "detail", "event_id", "queued", "result")

    def __init__(self, event: QueuedEvent, result: str, code: str = "", detail: str = "") -> None:
        self.event_id = event.event_id
        self.result = result
        self.code = code
        self.detail = detail
        self.queued = event

    @property
    def delivered(self) -> bool:
        """Say whether the server has the event."""
        return self.result in DELIVERED

    @property
    def event(self) -> dict[str, Any]:
        """Return the event itself; empty where it could not be read."""
        try:
            event = json.loads(self.queued.body)
        except ValueError:
            return {}
        return event if isinstance(event, dict) else {}

    def __repr__(self) -> str:
        return f"Outcome(event_id={self.event_id!r}, result={self.result!r}, code={self.code!r})"


def failed(events: Iterable[QueuedEvent], code: str, detail: str = "") -> list[Outcome]:
    """Return the outcome of events that all failed for one reason."""
    return [Outcome(event, "failed", code, detail) for event in events]
