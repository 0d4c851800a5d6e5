"""Take one event a request: `POST /user_tags`, answered 204 when Kafka has acknowledged it.

The hot route: plain ASGI, no framework object. Limits are looked at only when a body is unusual.
"""

from __future__ import annotations

from time import perf_counter

from gateway.answers import CLOSE, END, NO_CONTENT, Headers, Message, Receive, Scope, Send, answer_error, error_body
from gateway.bodies import BODY_TIMEOUT_S, BodyTooLargeError, read_body
from gateway.intake import Intake
from gateway.lanes import Tell
from gateway.request_id import answer_headers, id_of, record_headers
from streams.codecs import Codec
from streams.errors import InvalidEventError
from streams.metrics import GatewayMetrics
from streams.settings import Settings
from streams.topics import Stream

PATH = "/user_tags"
ROUTE = "user_tags"
RECORD_OVERHEAD_BYTES = 1_024
"""Head of a Kafka batch, of a record, and the longest key."""


class UserTags:
    """ASGI application of the route."""

    def __init__(self, stream: Stream, intake: Intake, metrics: GatewayMetrics, settings: Settings) -> None:
        codec = Codec(stream)
        self._decode = codec.decode
        self._key_of = codec.key_of
        self._intake = intake
        self._metrics = metrics
        self.body_bytes_max = min(
            settings.gateway.body_bytes_max, stream.bytes_max, settings.topics.record_bytes_max - RECORD_OVERHEAD_BYTES
        )
        self._no_content = metrics.requests.labels(ROUTE, "204").inc
        self._observe = metrics.seconds.labels(ROUTE).observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started_s = perf_counter()
        request_id = id_of(scope["headers"])
        named = answer_headers(request_id)
        message = await receive()
        raw = message.get("body")
        if raw is None:  # The client has gone.
            return None
        if message["more_body"] or len(raw) > self.body_bytes_max:
            raw = await self._read_rest(scope, receive, send, message, named)
            if raw is None:
                return None
        try:
            event, _ = self._decode(raw)
        except InvalidEventError as error:
            return await self._refuse(send, error, named)
        fate = await self._intake.fate_of(self._key_of(event).encode(), raw, record_headers(request_id))
        if fate is not None:
            return await self._error(send, 503, fate, named)
        self.count_stored(perf_counter() - started_s)
        await send({**NO_CONTENT, "headers": named} if named else NO_CONTENT)
        return await send(END)

    def append(self, raw: bytes, tell: Tell) -> bool:
        """Append an event whose fate goes to *tell*; False, and nothing done, when it is not right or not plainly so."""
        try:
            event, _ = self._decode(raw)
        except InvalidEventError:
            return False
        self._intake.append(self._key_of(event).encode(), raw, tell)
        return True

    def count_stored(self, seconds: float) -> None:
        """Count a request whose event is stored, *seconds* after it came."""
        self._no_content()
        self._observe(seconds)

    def count(self, status: int) -> None:
        """Count a request that was answered *status*."""
        self._metrics.requests.labels(ROUTE, str(status)).inc()

    async def _read_rest(self, scope: Scope, receive: Receive, send: Send, first: Message, named: Headers) -> bytes | None:
        """Return the whole body, or answer why not and return None."""
        try:
            return await read_body(scope, receive, first, bytes_max=self.body_bytes_max)
        except BodyTooLargeError as error:
            text = f"the body has more than {self.body_bytes_max} bytes"
            close = [] if error.read_to_end else [CLOSE]
            await self._error(send, 413, ("body_too_large", text), [*named, *close])
        except TimeoutError:
            text = f"the body did not arrive within {BODY_TIMEOUT_S:.0f} s"
            await self._error(send, 408, ("body_timeout", text), [*named, CLOSE])
        return None

    async def _refuse(self, send: Send, error: InvalidEventError, named: Headers) -> None:
        self._metrics.events.labels("refused").inc()
        self._metrics.refused.labels(error.reason.value).inc()
        await self._error(send, 400, (error.reason.value, error.detail), named)

    async def _error(self, send: Send, status: int, error: tuple[str, str], headers: Headers | None = None) -> None:
        self.count(status)
        await answer_error(send, status, error_body(*error), headers)
