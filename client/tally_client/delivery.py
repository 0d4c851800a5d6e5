"""Deliver a batch, without doing any I/O: a generator asks for every step, so that threads and asyncio share one logic.

```
 deliver ──Hold(events)──▶ which of them are still ours       ◀── the spool may have given some away meanwhile
         ──Post(request)─▶ an answer, or an error             ◀── judged by `answers`
         ──Settle(…)─────▶ events that are done, for good
         ──Pause(s)──────▶ before the same request goes again
```
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple, Union

from tally_client.answers import Reply, Verdict, judge
from tally_client.clock import Clock, rfc3339
from tally_client.events import QueuedEvent
from tally_client.ids import new_id
from tally_client.outcomes import Outcome, failed
from tally_client.version import SDK, USER_AGENT

EVENTS_PATH = "/v1/events"
DELAY_S_MIN = 0.1
DELAY_S_MAX = 30.0
FIRST_CEILING_S = 0.4
"""The first delay is between 0.1 and 0.4 s; the ceiling doubles with each attempt, up to 30 s."""


class Rules(NamedTuple):
    """How a client delivers.

    Attributes:
        clock: ages and delays go by its `elapsed_s`.
        jitter: returns a number in [0, 1), evenly.
        compress: of a body.
        encoding: the name of that compression; None for none.
        retries_max: attempts after the first; None for as many as the age allows.
        age_s_max: when an event is given up, counted from its enqueueing.
    """

    clock: Clock
    jitter: Callable[[], float]
    compress: Callable[[bytes], bytes]
    encoding: str | None
    retries_max: int | None
    age_s_max: float


class Request(NamedTuple):
    """One request: the same id on every attempt, though a later one may have fewer events."""

    request_id: str
    attempt: int
    events: Sequence[QueuedEvent]

    def body(self) -> bytes:
        """Return the JSON of the whole batch."""
        return b'{"batch":[' + b",".join([event.body for event in self.events]) + b"]}"

    def headers(self, rules: Rules) -> dict[str, str]:
        """Return every header but the one that proves who asks."""
        headers = {
            "Content-Type": "application/json",
            "User-Agent": USER_AGENT,
            "X-SDK": SDK,
            "X-Request-Id": self.request_id,
            "X-Attempt": str(self.attempt),
            "X-Sent-At": rfc3339(rules.clock.wall_s()),
        }
        if rules.encoding is not None:
            headers["Content-Encoding"] = rules.encoding
        return headers


class Hold(NamedTuple):
    """Say which of these events are still this process's to send: reply with them."""

    events: Sequence[QueuedEvent]


class Post(NamedTuple):
    """Make this request: reply with its answer, or with the error."""

    request: Request


class Settle(NamedTuple):
    """Take note: these events are done."""

    outcomes: Sequence[Outcome]


class Pause(NamedTuple):
    """Wait so long (s)."""

    seconds: float


Step = Union[Hold, Post, Settle, Pause]
Delivery = Generator[Step, Any, None]


def deliver(events: Sequence[QueuedEvent], rules: Rules) -> Delivery:
    """Yield the steps that bring every event to its end: delivered, or failed for good.

    An event is sent again only while its result is unknown or the server asked for it, always by the same id, so that a
    second arrival is counted once.
    """
    waiting = deque([_new_request(events, rules)])
    while waiting:
        waiting.extendleft(reversed((yield from _finish(waiting.popleft(), rules))))


def delay_s(attempt: int, *, retry_after_s: float, jitter: float) -> float:
    """Return how long (s) to wait after a failed attempt: full jitter below a ceiling that doubles, above what was asked.

    >>> [delay_s(n, retry_after_s=0, jitter=1) for n in (1, 2, 3, 9)]
    [0.4, 0.8, 1.6, 30.0]
    >>> delay_s(1, retry_after_s=3, jitter=0)
    3.1
    """
    ceiling_s = min(DELAY_S_MAX, FIRST_CEILING_S * 2.0 ** min(attempt - 1, 16))
    return retry_after_s + DELAY_S_MIN + jitter * (ceiling_s - DELAY_S_MIN)


def _finish(request: Request, rules: Rules) -> Generator[Step, Any, Sequence[Request]]:
    """Repeat one request until it is done; return the requests that it was split into, if it was."""
    while True:
        events = yield from _of_age((yield Hold(request.events)), rules)
        if not events:
            return ()
        request = request._replace(events=events)
        reply: Reply = yield Post(request)
        verdict = judge(reply, events, wall_s=rules.clock.wall_s())
        if verdict.settled:
            yield Settle(verdict.settled)
        if verdict.split:
            return _halves(events, rules)
        if not verdict.again:
            return ()
        if rules.retries_max is not None and request.attempt > rules.retries_max:
            yield Settle(failed(verdict.again, "retries_exhausted", f"after {request.attempt} attempts"))
            return ()
        yield Pause(_pause_s(request.attempt, verdict, rules))
        request = request._replace(attempt=request.attempt + 1, events=verdict.again)


def _of_age(events: Sequence[QueuedEvent], rules: Rules) -> Generator[Step, Any, Sequence[QueuedEvent]]:
    """Settle the events that are too old, and return the others."""
    oldest_s = rules.clock.elapsed_s() - rules.age_s_max
    expired = [event for event in events if event.enqueued_at_s < oldest_s]
    if not expired:
        return events
    yield Settle(failed(expired, "too_old", f"not delivered within {rules.age_s_max:g} s"))
    return [event for event in events if event.enqueued_at_s >= oldest_s]


def _pause_s(attempt: int, verdict: Verdict, rules: Rules) -> float:
    return delay_s(attempt, retry_after_s=verdict.retry_after_s, jitter=rules.jitter())


def _new_request(events: Sequence[QueuedEvent], rules: Rules) -> Request:
    return Request(new_id(rules.clock.wall_s()), 1, events)


def _halves(events: Sequence[QueuedEvent], rules: Rules) -> Sequence[Request]:
    middle = len(events) // 2
    return [_new_request(events[:middle], rules), _new_request(events[middle:], rules)]
