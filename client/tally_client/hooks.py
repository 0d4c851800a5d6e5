"""Call what users hang in, so that whatever it does cannot harm the client."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tally_client.events import EventFields, InvalidEventError, QueuedEvent, compose, encode
from tally_client.options import Options
from tally_client.outcomes import Outcome

log = logging.getLogger(__name__)


class Hooks:
    """The guarded callbacks of one client.

    A callback is not told of what its own calls cause: an `on_error` that captures an event into a full queue would be
    called by itself for ever. Such outcomes are counted all the same.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._calling = threading.local()

    def tell(self, outcomes: Iterable[Outcome]) -> None:
        """Call `on_success` or `on_error` for each outcome; what they raise is logged, by its kind only."""
        for outcome in outcomes:
            called = self._options.on_success if outcome.delivered else self._options.on_error
            if called is not None:
                self._guard("on_success" if outcome.delivered else "on_error", called, outcome)

    def _guard(self, name: str, called: Callable[[Outcome], object], outcome: Outcome) -> None:
        if getattr(self._calling, "now", False):
            return
        self._calling.now = True
        try:
            called(outcome)
        except Exception as error:  # noqa: BLE001 - a callback is somebody else's code; its message may hold the event
            log.warning("%s raised %s", name, type(error).__name__)
        finally:
            self._calling.now = False

    def before_send(self, event: dict[str, Any]) -> Mapping[str, Any] | None:
        """Return what is to be sent instead of an event; None where it is to be dropped.

        Raises:
            InvalidEventError: the hook raised, or returned what is no event.
        """
        hook = self._options.before_send
        if hook is None:
            return event
        try:
            changed = hook(event)
        except Exception as error:  # noqa: BLE001 - as above
            log.warning("before_send raised %s", type(error).__name__)
            raise InvalidEventError("before_send_failed", f"it raised {type(error).__name__}") from None
        if changed is not None and not (isinstance(changed, Mapping) and isinstance(changed.get("id"), str)):
            raise InvalidEventError("before_send_failed", "it returned what is no event")
        return changed


class Composer:
    """Makes queued events of what callers say.

    Args:
        options: defaults and clock.
        hooks: asked before an event is encoded.
    """

    def __init__(self, options: Options, hooks: Hooks) -> None:
        self._options = options
        self._hooks = hooks

    def queued(
        self, event_type: str, user_id: str | None, properties: Mapping[str, Any] | None, fields: EventFields
    ) -> QueuedEvent | Outcome | None:
        """Return the event to queue; None where `before_send` dropped it, an outcome where it cannot be sent."""
        options = self._options
        if options.product is not None:
            fields.setdefault("product", options.product)
        if options.source is not None:
            fields.setdefault("source", options.source)
        event_id = ""
        try:
            event: Mapping[str, Any] | None = compose(event_type, user_id, properties, fields, options.clock)
            event_id = event["id"] if event else ""
            event = self._hooks.before_send(event)  # type: ignore[arg-type]
            if event is None:
                return None
            return QueuedEvent(event["id"], encode(event), options.clock.elapsed_s())
        except InvalidEventError as error:
            code, detail = error.code, str(error)
        except Exception as error:  # noqa: BLE001 - what objects of the caller raise while they are looked at
            code, detail = "invalid_event", f"it raised {type(error).__name__} when it was looked at"
        return Outcome(QueuedEvent(event_id, b"", 0.0), "failed", code, detail)
