"""Read what the server says about a request: which events are done, which are sent again, and when."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import timezone
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple, Union

from tally_client.errors import CredentialsError, TransportError
from tally_client.events import QueuedEvent
from tally_client.outcomes import DELIVERED, Outcome, failed
from tally_client.transport import Answer

RETRY_AFTER_S_MAX = 86_400.0
"""No event outlives it."""

Reply = Union[Answer, TransportError, CredentialsError]
"""How an attempt ended: with an answer, without one, or before it was made because nobody gives a token."""


class Verdict(NamedTuple):
    """What a reply means for the events of a request; each is in one of the first two, or all are to be split."""

    settled: Sequence[Outcome] = ()
    again: Sequence[QueuedEvent] = ()
    split: bool = False
    retry_after_s: float = 0.0


def judge(reply: Reply, events: Sequence[QueuedEvent], *, wall_s: float) -> Verdict:
    """Return what a reply means.

    Args:
        reply: of the request with exactly these events.
        events: of the request, not empty.
        wall_s: the time now, for a `Retry-After` that is a date.
    """
    if isinstance(reply, TransportError):
        return Verdict(again=events)
    if isinstance(reply, CredentialsError):
        return Verdict(settled=failed(events, "credentials_refused", str(reply)))
    if reply.status in (200, 408, 429) or reply.status >= 500:
        return _by_event(reply, events)._replace(retry_after_s=retry_after(reply.headers, wall_s=wall_s))
    if reply.status == 413 and len(events) > 1:
        return Verdict(split=True)
    if reply.status == 422:
        verdict = _by_event(reply, events)
        return Verdict(settled=[*verdict.settled, *failed(verdict.again, "http_422", _message(reply))])
    return Verdict(settled=_by_status(reply, events))


def _by_status(answer: Answer, events: Sequence[QueuedEvent]) -> list[Outcome]:
    """Take one result for all events, from an answer that is final."""
    if answer.status in (202, 204):
        return [Outcome(event, "ok") for event in events]
    if answer.status == 413:
        return failed(events, "event_too_large", "the server takes no event of this size")
    return failed(events, f"http_{answer.status}", _message(answer))


def _by_event(answer: Answer, events: Sequence[QueuedEvent]) -> Verdict:
    """Take each event's own result. One without a result is not known to be kept: it is sent again, by the same id.

    An error has results too, where it is the server's own: a 503 may drop an event for good beside those to send again.
    """
    results = _results(answer)
    settled: list[Outcome] = []
    again: list[QueuedEvent] = []
    for event in events:
        told = results.get(event.event_id)
        if not isinstance(told, Mapping) or told.get("result") == "retry":
            again.append(event)
            continue
        result, code, detail = (_text(told.get(name)) for name in ("result", "code", "detail"))
        if result in DELIVERED:
            settled.append(Outcome(event, result, code, detail))
        elif result == "drop":
            settled.append(Outcome(event, "failed", code or "drop", detail))
        else:  # A newer server's word: what it means is unknown, but it is not "send it again".
            settled.append(Outcome(event, "failed", "unknown_result", result[:64]))
    return Verdict(settled=settled, again=again)


def _results(answer: Answer) -> Mapping[str, Any]:
    try:
        results: Any = json.loads(answer.body)["results"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return results if isinstance(results, Mapping) else {}


def _message(answer: Answer) -> str:
    """Return the sentence of an error as Tally writes it, or nothing."""
    try:
        return _text(json.loads(answer.body)["error"]["message"])[:256]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def retry_after(headers: Mapping[str, str], *, wall_s: float) -> float:
    """Return how long (s, at most a day) an answer asks to wait; 0 where it does not say, or says nonsense.

    >>> retry_after({"retry-after": "3"}, wall_s=0.0)
    3.0
    >>> retry_after({"retry-after": "Thu, 01 Jan 1970 00:01:00 GMT"}, wall_s=20.0)
    40.0
    """
    value = headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", value):
        wait_s = float(value)
    else:
        try:
            at = parsedate_to_datetime(value)
            wait_s = (at if at.tzinfo else at.replace(tzinfo=timezone.utc)).timestamp() - wall_s
        except (ValueError, TypeError, IndexError, OverflowError):
            return 0.0
    return min(max(wait_s, 0.0), RETRY_AFTER_S_MAX)
