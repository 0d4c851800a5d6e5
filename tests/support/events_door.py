"""The door of `/v1` without a socket, a Kafka that tells fates on demand, and events to post."""

from __future__ import annotations

import json
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, cast

from gateway.answers import Message
from gateway.auth.door import Door
from gateway.auth.identity import NOBODY, Headers, Identity, Quota, Refused
from gateway.auth.quotas import NO_QUOTA, Quotas
from gateway.events_beacon import BeaconRoute
from gateway.events_route import EventsRoute
from gateway.events_taking import EventTaker
from gateway.intake import Intake
from gateway.lanes import Fate, Refusal, Tell, TellMany
from gateway.request_id import NO_HEADERS, RecordHeaders
from streams.codecs import Codec
from streams.event_time import format_instant
from streams.metrics import GatewayMetrics
from streams.settings import Events
from streams.topics import EVENTS
from tests.support.clock import SteppedClock

Route = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]
NOW_MS = 1_795_435_200_000
JSON_BODY = (b"content-type", b"application/json")
LINES_BODY = (b"content-type", b"application/x-ndjson")
DECODE = Codec(EVENTS).decode


def an_event(**changes: Any) -> dict[str, Any]:
    """Return a valid event with an id of its own, and *changes*; a value of `...` leaves the field out."""
    event: dict[str, Any] = {
        "id": str(uuid.uuid4()),
        "type": "page_viewed",
        "user_id": "user-1",
        "time": format_instant(NOW_MS),
        "properties": {"path": "/menus/today", "duration_ms": 310},
    }
    return {name: value for name, value in (event | changes).items() if value is not ...}


def a_batch(*events: Any) -> bytes:
    """Return a body of events."""
    return json.dumps({"batch": events}).encode()


class Stored(NamedTuple):
    """A record as a worker would decode it, its key and its headers."""

    key: str
    event: Any
    headers: dict[str, bytes | None]


class TellingIntake:
    """Takes records and tells each its fate at once, as `fate` says by the key; or later, when it is None.

    Attributes:
        why: why nothing is taken.
    """

    def __init__(self) -> None:
        self.fate: Callable[[bytes], Fate] | None = lambda key: None
        self.why: Refusal | None = None
        self.taken: list[tuple[bytes, bytes, RecordHeaders]] = []
        self.waiting: list[Callable[[Fate], None]] = []

    def refusal(self) -> Refusal | None:
        return self.why

    def append(self, key: bytes, value: bytes, tell: Tell, headers: RecordHeaders = NO_HEADERS) -> None:
        self.append_all([key], [value], lambda fate, _: tell(fate), headers)

    def append_all(
        self, keys: Sequence[bytes], values: Sequence[bytes], tell: TellMany, headers: RecordHeaders = NO_HEADERS
    ) -> None:
        if self.why is not None:
            tell(self.why, range(len(keys)))
            return
        for index, (key, value) in enumerate(zip(keys, values, strict=True)):
            self.taken.append((key, value, headers))
            if self.fate is None:
                self.waiting.append(lambda fate, index=index: tell(fate, [index]))  # type: ignore[misc]
            else:
                tell(self.fate(key), [index])


class OneAuthenticator:
    """Says of everybody the same, and keeps what it was asked with."""

    def __init__(self, said: Identity | Refused) -> None:
        self.said = said
        self.asked: list[Headers] = []

    async def identify(self, headers: Headers) -> Identity:
        self.asked.append(headers)
        if isinstance(self.said, Refused):
            raise self.said
        return self.said


class Answered(NamedTuple):
    """An answer: status, decoded body, headers."""

    status: int
    body: Any
    headers: dict[bytes, bytes]

    @property
    def words(self) -> dict[str, str]:
        """The result of each event, by name."""
        return {name: result["result"] for name, result in self.body["results"].items()}

    @property
    def code(self) -> str:
        """What is wrong with the whole request."""
        return str(self.body["error"]["code"])


async def asked(route: Route, scope: Message, messages: Sequence[Message]) -> Answered | None:
    """Put a request whose body comes in some messages, and after them its end; None when there was no answer."""
    coming = list(messages)
    sent: list[Message] = []

    async def receive() -> Message:
        return coming.pop(0) if coming else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    await route(scope, receive, send)
    if not sent:
        return None
    start, end = sent
    return Answered(start["status"], json.loads(end["body"] or b"null"), dict(start["headers"]))


class EventsDoor:
    """Both routes with everything that they need; `post` asks them as a server would."""

    def __init__(self, said: Identity | Refused = NOBODY, settings: Events | None = None, quota: Quota = NO_QUOTA) -> None:
        self.clock = SteppedClock(now_ms=NOW_MS)
        self.intake = TellingIntake()
        self.letters = TellingIntake()
        self.metrics = GatewayMetrics()
        self.authenticator = OneAuthenticator(said)
        quotas = Quotas(quota, clock=self.clock.monotonic_s)
        door = Door("events", self.authenticator, quotas, self.metrics, needs_tls=False)
        taker = EventTaker(
            cast(Intake, self.intake), cast(Intake, self.letters), self.metrics, settings or Events(), clock=self.clock
        )
        self.events = EventsRoute(taker=taker, door=door, metrics=self.metrics, clock=self.clock)
        self.beacon = BeaconRoute(taker=taker, door=door, metrics=self.metrics)

    async def post(self, body: bytes, *headers: tuple[bytes, bytes], query: bytes = b"", beacon: bool = False) -> Answered:
        """Post a body that comes in one piece, as JSON unless *headers* say otherwise."""
        found = await self.ask(
            [{"type": "http.request", "body": body, "more_body": False}], *headers, query=query, beacon=beacon
        )
        assert found is not None, "no answer"
        return found

    async def ask(
        self, messages: Sequence[Message], *headers: tuple[bytes, bytes], query: bytes = b"", beacon: bool = False
    ) -> Answered | None:
        """Put a request whose body comes in some messages; None when there was no answer."""
        typed = headers if any(name == b"content-type" for name, _ in headers) else (JSON_BODY, *headers)
        scope = {"type": "http", "method": "POST", "path": "/v1", "headers": list(typed), "query_string": query}
        return await asked(self.beacon if beacon else self.events, scope, messages)

    def stored(self) -> list[Stored]:
        """Return what was appended, as a worker decodes it."""
        return [Stored(key.decode(), DECODE(value)[0], dict(headers)) for key, value, headers in self.intake.taken]

    def count(self, name: str, **labels: str) -> float:
        """Return a metric's value."""
        return self.metrics.registry.get_sample_value(name, labels) or 0.0
