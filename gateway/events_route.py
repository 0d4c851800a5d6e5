"""Take the events of a producer: `POST /v1/events`, answered event by event when Kafka has acknowledged them."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import perf_counter
from typing import NamedTuple

from gateway.answers import CLOSE, RETRY_AFTER, Answer, Headers, Receive, Scope, Send, answer, answer_other_method, error_body
from gateway.auth.door import Door
from gateway.auth.identity import Identity, Refused
from gateway.auth.refusals import headers_of
from gateway.bodies import BODY_TIMEOUT_S, BodyTooLargeError, read_body
from gateway.body_room import BodyRoom, NoRoomError
from gateway.compression import DamagedBodyError, ExpandedTooLargeError, UnknownEncodingError, expand
from gateway.events_answers import Results, retry_detail
from gateway.events_decoding import BodyError, columns_of, documents_of
from gateway.events_decoding import Refused as RefusedEvent
from gateway.events_schema import parse_moment
from gateway.events_taking import SLICE_BYTES_MAX, EventTaker, Read
from gateway.request_id import answer_headers, id_of, new_id, record_headers
from streams.clock import SYSTEM_CLOCK, Clock
from streams.metrics import GatewayMetrics
from streams.topics import EVENTS

PATH = "/v1/events"
ROUTE = "events"
BODY_BYTES_MAX = 1_048_576
"""On the wire."""
EXPANDED_BYTES_MAX = 5_242_880
TYPES = {b"application/json": False, b"application/x-ndjson": True}
"""Content types, and whether they are lines."""
CHARSETS = frozenset({b"utf-8", b"utf8", b"us-ascii"})
NO_WAIT = b"wait=false"
NO_ROOM = "too many large bodies are coming at a time; send it again"
NONE_VALID = "none of the events is valid; results says what is wrong with each"


class Sender(NamedTuple):
    """Who sends a request, and what it is called.

    Attributes:
        request_id: as the client named it, else our own.
        is_named: by the client; then its records are named so, too.
    """

    identity: Identity
    request_id: bytes
    is_named: bool


class Body:
    """The events of a body: decoded at once where all are plainly right, else one document an event.

    Attributes:
        size_bytes: on the wire.
        count: how many events it holds.
        held_bytes: what it holds while others get their turn; 0 where it is decoded already.
    """

    def __init__(self, raw: bytes, *, is_lines: bool, size_bytes: int) -> None:
        """Look for the events of a body, as it was before it was compressed.

        Raises:
            BodyError: it is no JSON, or UTF-8; it holds no event, or too many.
        """
        self.size_bytes = size_bytes
        self._raw, self._is_lines = raw, is_lines
        self._columns = None if is_lines or len(raw) > SLICE_BYTES_MAX else columns_of(raw)
        self._documents = [] if self._columns else documents_of(raw, is_lines=is_lines)
        self.count = len(self._columns.ids) if self._columns else len(self._documents)
        self.held_bytes = 0 if self._columns else len(raw)

    async def read(self, taker: EventTaker, identity: Identity) -> Read:
        """Return the events, which *identity* sends; to be called once, since the bytes are let go of.

        Raises:
            gateway.auth.identity.Refused: 403; an event says that somebody else sends it.
        """
        found = taker.read_at_once(self._columns, identity) if self._columns else None
        if found is None:
            found = await taker.read(self._documents or documents_of(self._raw, is_lines=self._is_lines), identity)
        self._raw, self._columns, self._documents = b"", None, []
        return found


@dataclass(kw_only=True, eq=False)
class EventsRoute:
    """ASGI application of the route.

    Attributes:
        taker: shared with the beacon.
        door: says who asks, before the body is read, and what that one may send.
        room: for bodies that arrive in pieces, or are read in slices: a few kilobytes may have been expanded to megabytes.
    """

    taker: EventTaker
    door: Door
    metrics: GatewayMetrics
    room: BodyRoom = field(default_factory=BodyRoom)
    clock: Clock = SYSTEM_CLOCK

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST":
            return await answer_other_method(send, scope["method"], "OPTIONS, POST")
        started_s = perf_counter()
        given = id_of(scope["headers"])
        request_id = given or new_id()
        found = await self._answer(scope, receive, request_id, is_named=given is not None)
        if found is None:  # The client has gone.
            return None
        self.metrics.requests.labels(ROUTE, str(found.status)).inc()
        self.metrics.seconds.labels(ROUTE).observe(perf_counter() - started_s)
        return await answer(send, found.status, found.body, [*answer_headers(request_id), *found.headers])

    async def _answer(self, scope: Scope, receive: Receive, request_id: bytes, *, is_named: bool) -> Answer | None:
        """Return the answer, or None when the client has gone."""
        headers: Headers = scope["headers"]
        try:
            sender = Sender(await self.door.identify(headers), request_id, is_named)
            is_lines = are_lines(header(headers, b"content-type"))
            refusal = self.taker.refusal()
            if refusal is not None:
                return _error(503, refusal.code, retry_detail(refusal))
            body = await self._body(scope, receive, is_lines=is_lines)
            if body is None:
                return None
            waits = NO_WAIT not in scope["query_string"].split(b"&")
            return await self._take(body, sender, waits=waits)
        except Refused as refused:
            return Answer(refused.status, error_body(refused.reason.value, refused.detail), headers_of(refused))
        except BodyError as error:
            return _error(error.status, error.code, error.message, [CLOSE] if error.closes else [])

    async def _take(self, body: Body, sender: Sender, *, waits: bool) -> Answer:
        """Return what became of a body's events, whose bytes are let go of before Kafka is waited for.

        Raises:
            BodyError: 503; it is one of too many.
        """
        try:
            with self.room.held(body.held_bytes):
                told = self.door.take(sender.identity, events=body.count, size_bytes=body.size_bytes)
                read = await body.read(self.taker, sender.identity)
        except NoRoomError:
            raise BodyError(503, "too_many_waiting", NO_ROOM) from None
        for product in read.records.products:
            self.door.authorize(sender.identity, product, EVENTS.topic)
        name = record_headers(sender.request_id)
        if read.records.users:
            results = await self.taker.store(read, name if sender.is_named else [], name, waits=waits)
        else:
            results = Results()
            results.drop_all(read.refused, {})
        count_results(self.metrics, ROUTE, results, read.refused)
        return _answer_of(results, sender.request_id.decode(), told)

    async def _body(self, scope: Scope, receive: Receive, *, is_lines: bool) -> Body | None:
        """Return the body, or None when the client has gone.

        Raises:
            BodyError: it cannot be read, or holds too much.
        """
        raw = await self._read(scope, receive)
        if raw is None:
            return None
        headers: Headers = scope["headers"]
        self._note_skew(headers)
        expanded = self._expanded(raw, header(headers, b"content-encoding"))
        return Body(expanded, is_lines=is_lines, size_bytes=len(raw))

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        """Return the body, or None when the client has gone.

        Raises:
            BodyError: it is too large, too slow, or one of too many.
        """
        first = await receive()
        try:
            with self.room.reserved(scope, first, bytes_max=BODY_BYTES_MAX):
                return await read_body(scope, receive, first, bytes_max=BODY_BYTES_MAX)
        except BodyTooLargeError as error:
            raise BodyError(
                413, "body_too_large", f"the body has more than {BODY_BYTES_MAX} bytes", closes=not error.read_to_end
            ) from None
        except NoRoomError:
            raise BodyError(503, "too_many_waiting", NO_ROOM, closes=True) from None
        except TimeoutError:
            text = f"the body did not arrive within {BODY_TIMEOUT_S:.0f} s"
            raise BodyError(408, "body_timeout", text, closes=True) from None

    def _expanded(self, raw: bytes, encoding: bytes) -> bytes:
        """Return the body as it was before it was compressed.

        Raises:
            BodyError: it cannot be expanded, or is too large then, or empty.
        """
        try:
            body = expand(raw, encoding, bytes_max=EXPANDED_BYTES_MAX)
        except UnknownEncodingError:
            raise BodyError(415, "unknown_encoding", "the content encoding is one of gzip, deflate, zstd, or none") from None
        except ExpandedTooLargeError:
            raise BodyError(413, "body_too_large", f"expanded the body has more than {EXPANDED_BYTES_MAX} bytes") from None
        except DamagedBodyError:
            raise BodyError(400, "damaged_body", "the body is not one whole stream of its content encoding") from None
        if not body.strip():
            raise BodyError(400, "empty", "the body is empty")
        self.metrics.decoded_bytes.labels(ROUTE).inc(len(body))
        return body

    def _note_skew(self, headers: Headers) -> None:
        sent_at = header(headers, b"x-sent-at")
        if not sent_at:
            return
        try:
            ahead_ms = parse_moment(sent_at.decode("latin-1")) - self.clock.now_ms()
        except ValueError:
            return
        self.metrics.clock_skew.labels("ahead" if ahead_ms > 0 else "behind").observe(abs(ahead_ms) / 1000)


def count_results(metrics: GatewayMetrics, route: str, results: Results, refused: list[RefusedEvent]) -> None:
    """Count what became of a body's events."""
    for word, count in results.counts().items():
        metrics.event_results.labels(route, word).inc(count)
    if refused:
        metrics.events.labels("refused").inc(len(refused))
    for each in refused:
        metrics.refused.labels(each.code.value).inc()


def are_lines(content_type: bytes) -> bool:
    """Say whether a body of this type is NDJSON.

    Raises:
        BodyError: the type is neither that nor JSON, or not of UTF-8.

    >>> are_lines(b"application/x-ndjson; charset=utf-8")
    True
    """
    kind, *parameters = (part.strip().lower() for part in content_type.split(b";"))
    charsets = [part.removeprefix(b"charset=").strip(b'"') for part in parameters if part.startswith(b"charset=")]
    if kind not in TYPES or not CHARSETS.issuperset(charsets):
        raise BodyError(415, "unknown_type", "the content type is application/json or application/x-ndjson, in UTF-8")
    return TYPES[kind]


def header(headers: Headers, wanted: bytes) -> bytes:
    """Return the value of a header, several joined as HTTP allows, empty where there is none."""
    return b", ".join(value for name, value in headers if name == wanted)


def _answer_of(results: Results, request_id: str, told: Headers) -> Answer:
    status = results.status()
    headers = [*told, *results.headers()]
    if status == 422:
        return Answer(422, results.body(request_id, ("no_valid_event", NONE_VALID)), headers)
    if status == 503 and results.refusal is not None:
        return Answer(503, results.body(request_id, (results.refusal.code, retry_detail(results.refusal))), headers)
    return Answer(status, results.body(request_id), headers)


def _error(status: int, code: str, message: str, headers: Headers | None = None) -> Answer:
    """Return an error; one that passes (503, 408) says when to try again."""
    passes = [RETRY_AFTER] if status in (408, 503) else []
    return Answer(status, error_body(code, message), [*passes, *(headers or [])])
