"""The door of Labs' transactions without a socket, a Kafka that tells fates on demand, and bodies to post."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

from gateway.analytics import Analytics
from gateway.answers import Message
from gateway.auth.door import Door
from gateway.auth.edge import is_production
from gateway.auth.identity import NOBODY, Headers, Identity, Refused
from gateway.auth.quotas import Quotas
from gateway.intake import Intake
from gateway.lanes import Fate
from gateway.request_id import NO_HEADERS, RecordHeaders
from gateway.sessions import Sessions
from streams.codecs import Codec
from streams.metrics import GatewayMetrics
from streams.settings import Settings
from streams.topics import EVENTS
from tests.support.clock import SteppedClock
from tests.support.events_door import Answered, OneAuthenticator, asked

STORED = (200, {"message": "Data stored successfully!"})
DECODE = Codec(EVENTS).decode


def a_txn(**changes: Any) -> dict[str, Any]:
    """Return the specification's transaction, with *changes*; a value of `...` leaves the field out."""
    data = [("user.click", "1"), ("user.click", "2"), ("user.drag", "5")]
    txn: dict[str, Any] = {
        "product": 3,
        "pennkey": "judtin",
        "timestamp": 1704067200,
        "data": [{"key": key, "value": value} for key, value in data],
    }
    return {name: value for name, value in (txn | changes).items() if value is not ...}


def body_of(**changes: Any) -> bytes:
    """Return a body of `a_txn`."""
    return json.dumps(a_txn(**changes)).encode()


class Stored(NamedTuple):
    """A record as a worker would decode it, and its key."""

    key: str
    event: Any


class AnsweringIntake:
    """Takes records and tells each the same fate at once."""

    def __init__(self) -> None:
        self.fate: Fate = None
        self.bug: Exception | None = None
        self.taken: list[tuple[bytes, bytes]] = []
        self.headers: RecordHeaders = []

    def fate_of(self, key: bytes, value: bytes, headers: RecordHeaders = NO_HEADERS) -> asyncio.Future[Fate]:
        if self.bug is not None:
            raise self.bug
        self.taken.append((key, value))
        self.headers = headers
        future: asyncio.Future[Fate] = asyncio.get_running_loop().create_future()
        future.set_result(self.fate)
        return future


class LabsDoor:
    """The route with everything that it needs; `post` asks it as a server would."""

    def __init__(self, said: Identity | Refused = NOBODY, settings: Settings | None = None) -> None:
        settings = settings or Settings()
        self.clock = SteppedClock(now_ms=1_704_067_200_000)
        self.intake = AnsweringIntake()
        self.metrics = GatewayMetrics()
        self.sessions = Sessions(settings.analytics, clock=self.clock)
        self.sessions.note_caught_up()
        self.authenticator = OneAuthenticator(said)
        quotas = Quotas(clock=self.clock.monotonic_s)
        self.analytics = Analytics(
            intake=cast(Intake, self.intake),
            sessions=self.sessions,
            door=Door("analytics", self.authenticator, quotas, self.metrics, needs_tls=is_production(settings.gateway)),
            metrics=self.metrics,
            settings=settings,
        )

    async def post(self, body: bytes, headers: Headers = (), method: str = "POST") -> Answered:
        """Post a body that comes in one piece."""
        found = await self.ask([{"type": "http.request", "body": body, "more_body": False}], headers, method)
        assert found is not None, "no answer"
        return found

    async def ask(self, messages: Sequence[Message], headers: Headers = (), method: str = "POST") -> Answered | None:
        """Put a request whose body comes in some messages; None when there was no answer."""
        scope = {"type": "http", "method": method, "path": "/analytics/", "headers": list(headers)}
        return await asked(self.analytics, scope, messages)

    def stored(self) -> list[Stored]:
        """Return what was appended, as a worker decodes it."""
        return [Stored(key.decode(), DECODE(value)[0]) for key, value in self.intake.taken]

    def count(self, name: str, **labels: str) -> float:
        """Return a metric's value."""
        return self.metrics.registry.get_sample_value(name, labels) or 0.0
