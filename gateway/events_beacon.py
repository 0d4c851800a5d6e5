"""Take events that nobody waits for: `POST /v1/beacon`, for pages about to close; always 204, which promises nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import perf_counter
from urllib.parse import parse_qs

import msgspec

from gateway.answers import CLOSE, END, NO_CONTENT, Headers, Receive, Scope, Send, answer_other_method
from gateway.auth.door import Door
from gateway.auth.identity import Headers as RequestHeaders
from gateway.auth.identity import Refused
from gateway.bodies import BodyTooLargeError, read_body
from gateway.body_room import BodyRoom, NoRoomError
from gateway.events_answers import Results
from gateway.events_decoding import BodyError, documents_of
from gateway.events_route import count_results
from gateway.events_taking import EventTaker
from gateway.request_id import answer_headers, id_of, record_headers
from streams.metrics import GatewayMetrics
from streams.topics import EVENTS

PATH = "/v1/beacon"
ROUTE = "beacon"
BODY_BYTES_MAX = 65_536
"""What a browser's `sendBeacon` takes."""
KEY_BYTES_MAX = 512
AUTHORIZATION = b"authorization"


class _Keyed(msgspec.Struct):
    """A body, as far as it names a key."""

    key: str = ""


class LetDownError(Exception):
    """A beacon of which nothing is taken.

    Attributes:
        status: what any other route would answer.
    """

    def __init__(self, status: int, *, closes: bool = False) -> None:
        super().__init__(f"would be {status}")
        self.status = status
        self.closes = closes


@dataclass(kw_only=True, eq=False)
class BeaconRoute:
    """ASGI application of the route: the text is one event, or an object with a list `batch`, and may hold `key`."""

    taker: EventTaker
    door: Door
    metrics: GatewayMetrics
    room: BodyRoom = field(default_factory=BodyRoom)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST":
            return await answer_other_method(send, scope["method"], "OPTIONS, POST")
        started_s = perf_counter()
        headers = answer_headers(id_of(scope["headers"]))
        try:
            status = (await self._take(scope, receive)).status()
        except Refused as refused:
            status = refused.status
        except (BodyError, LetDownError) as error:
            status = error.status
            headers += [CLOSE] if error.closes else []
        if status not in (200, 202):
            self.metrics.beacon_refusals.labels(str(status)).inc()
        self.metrics.requests.labels(ROUTE, "204").inc()
        self.metrics.seconds.labels(ROUTE).observe(perf_counter() - started_s)
        await send({**NO_CONTENT, "headers": headers})
        return await send(END)

    async def _take(self, scope: Scope, receive: Receive) -> Results:
        """Hand the events over, and wait for nothing but the door.

        Raises:
            gateway.auth.identity.Refused, BodyError, LetDownError: nothing of it is taken.
        """
        raw = await self._read(scope, receive)
        identity = await self.door.identify(with_key(scope, raw))
        if self.taker.refusal() is not None:
            raise LetDownError(503)
        documents = documents_of(raw, is_lines=False)
        self.door.take(identity, events=len(documents), size_bytes=len(raw))
        read = await self.taker.read(documents, identity)
        for product in read.records.products:
            self.door.authorize(identity, product, EVENTS.topic)
        results = Results()
        if read.records.users:
            name = record_headers(id_of(scope["headers"]))
            results = await self.taker.store(read, name, name, waits=False)
        else:
            results.drop_all(read.refused, {})
        self.metrics.decoded_bytes.labels(ROUTE).inc(len(raw))
        count_results(self.metrics, ROUTE, results, read.refused)
        return results

    async def _read(self, scope: Scope, receive: Receive) -> bytes:
        first = await receive()
        try:
            with self.room.reserved(scope, first, bytes_max=BODY_BYTES_MAX):
                raw = await read_body(scope, receive, first, bytes_max=BODY_BYTES_MAX)
        except BodyTooLargeError as error:
            raise LetDownError(413, closes=not error.read_to_end) from None
        except (NoRoomError, TimeoutError) as error:
            raise LetDownError(503 if isinstance(error, NoRoomError) else 408, closes=True) from None
        if not raw or not raw.strip():  # None: the page was faster than its body.
            raise LetDownError(400)
        return raw


def with_key(scope: Scope, raw: bytes) -> RequestHeaders:
    """Return the headers of a request with the API key of its query or body as credentials, where they hold none.

    >>> with_key({"headers": [], "query_string": b"key=ab_cd"}, b"{}")
    [(b'authorization', b'ApiKey ab_cd')]
    """
    headers: Headers = scope["headers"]
    if any(name == AUTHORIZATION for name, _ in headers):
        return headers
    key = next(iter(parse_qs(scope["query_string"].decode("latin-1")).get("key", ())), "") or _key_in(raw)
    if not key or len(key) > KEY_BYTES_MAX or not key.isascii():
        return headers
    return [*headers, (AUTHORIZATION, b"ApiKey " + key.encode())]


def _key_in(raw: bytes) -> str:
    try:
        return msgspec.json.decode(raw, type=_Keyed).key
    except (msgspec.DecodeError, ValueError, RecursionError):
        return ""
