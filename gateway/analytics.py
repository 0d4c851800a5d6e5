"""Take one transaction a request: `POST /analytics/`, as the products of Labs post it; 200 when Kafka has acknowledged it.

Answers are of the form that those products know: `{"message"}`, or `{"detail"}` for what is wrong. A transaction is one record,
so all of it is stored or nothing. Postgres has no part in an answer.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field
from time import perf_counter
from typing import NamedTuple

import msgspec

from gateway.analytics_record import Submission, product_name, record_of, txn_id
from gateway.analytics_txn import AnalyticsTxn, read_txn
from gateway.answers import CLOSE, END, RETRY_AFTER, Answer, Headers, Receive, Scope, Send, answer
from gateway.auth.door import Door
from gateway.auth.identity import Identity, Refused
from gateway.auth.refusals import headers_of
from gateway.bodies import BODY_TIMEOUT_S, BodyTooLargeError, read_body
from gateway.body_room import BodyRoom, NoRoomError
from gateway.intake import Intake
from gateway.request_id import answer_headers, id_of, record_headers
from gateway.sessions import Sessions, digest_of
from streams.errors import InvalidEventError, Reason
from streams.metrics import GatewayMetrics
from streams.settings import Settings
from streams.topics import EVENTS

log = logging.getLogger(__name__)

PATHS = ("/analytics", "/analytics/")
ROUTE = "analytics"
RECORD_OVERHEAD_BYTES = 16_384
"""What a record may have beyond its body: user, source and names of four bytes a character, the head of a Kafka batch."""
SESSION_HEADER = b"x-session-id"
IDEMPOTENCY_HEADER = b"idempotency-key"
_IDEMPOTENCY_KEY = re.compile(rb"[ -~]{1,256}")
ALLOW = (b"allow", b"OPTIONS, POST")
STORED = msgspec.json.encode({"message": "Data stored successfully!"})
NOT_ACKNOWLEDGED = "kafka does not acknowledge at present; send it again, it will count once"
NO_ROOM = "too many large transactions are arriving; send it again"
FAILED = "the gateway failed on this transaction"


class Record(NamedTuple):
    """What a request becomes: the record's key and value, and headers of the answer."""

    key: bytes
    value: bytes
    headers: Headers


class UnreadError(Exception):
    """The body has not been read; *answer* says why."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(f"answered {answer.status}")
        self.answer = answer


@dataclass(slots=True)
class Attempt:
    """How far a request came, for the log: the id of its transaction, once that is known."""

    txn_id: str = ""


@dataclass(kw_only=True, eq=False)
class Analytics:
    """ASGI application of the route.

    Attributes:
        intake: of the stream `EVENTS`.
        sessions: whose user is taken where a body names none.
        door: says who asks, before the body is read, and what they may; a datapoint is an event of their quota.
    """

    intake: Intake
    sessions: Sessions
    door: Door
    metrics: GatewayMetrics
    settings: Settings
    body_room: BodyRoom = field(default_factory=BodyRoom)

    def __post_init__(self) -> None:
        record_bytes_max = min(EVENTS.bytes_max, self.settings.topics.record_bytes_max)
        self._body_bytes_max = min(self.settings.analytics.body_bytes_max, record_bytes_max - RECORD_OVERHEAD_BYTES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "OPTIONS":
            await send({"type": "http.response.start", "status": 204, "headers": [ALLOW]})
            await send(END)
            return
        started_s = perf_counter()
        request_id = id_of(scope["headers"])
        found = await self._answer(scope, receive, request_id)
        if found is None:  # The client has gone.
            return
        self.metrics.requests.labels(ROUTE, str(found.status)).inc()
        self.metrics.seconds.labels(ROUTE).observe(perf_counter() - started_s)
        await answer(send, found.status, found.body, [*answer_headers(request_id), *found.headers])

    async def _answer(self, scope: Scope, receive: Receive, request_id: bytes | None) -> Answer | None:
        """Return the answer, whatever happens; None when the client has gone."""
        attempt = Attempt()
        try:
            return await self._store(scope, receive, request_id, attempt)
        except Refused as refused:
            return _detail(refused.status, refused.detail, headers_of(refused))
        except InvalidEventError as error:
            self._count_refused(error.reason)
            return _detail(400, error.detail)
        except UnreadError as unread:
            return unread.answer
        except Exception as error:  # The one place that keeps a bug from the client's eyes.
            self.metrics.failures.labels(ROUTE).inc()
            named = {"txn_id": attempt.txn_id, "request_id": (request_id or b"").decode()}
            log.exception("a transaction failed: %s", type(error).__name__, extra=named)
            return _detail(500, FAILED, [CLOSE])

    async def _store(self, scope: Scope, receive: Receive, request_id: bytes | None, attempt: Attempt) -> Answer | None:
        if scope["method"] != "POST":
            return _detail(405, "Method Not Allowed", [ALLOW])
        identity = await self.door.identify(scope["headers"])
        record = await self._record(scope, receive, identity, attempt)
        if record is None:
            return None
        fate = await self.intake.fate_of(record.key, record.value, record_headers(request_id))
        if fate is not None:
            return _detail(503, NOT_ACKNOWLEDGED, [*record.headers, RETRY_AFTER])
        return Answer(200, STORED, record.headers)

    async def _record(self, scope: Scope, receive: Receive, identity: Identity, attempt: Attempt) -> Record | None:
        """Return what the body becomes; nothing else of it is kept while Kafka is waited for. None: the client has gone."""
        raw = await self._read(scope, receive)
        if raw is None:
            return None
        txn = read_txn(raw)
        product = product_name(txn)
        self.door.authorize(identity, product, EVENTS.topic)
        submission = submission_of(scope["headers"], identity)
        attempt.txn_id = txn_id(txn, submission)
        told = self.door.take(identity, events=len(txn.data), size_bytes=len(raw))
        user = await self._user_of(txn, submission)
        value = record_of(txn, id_=attempt.txn_id, user=user, source=identity.name)
        return Record(product.encode(), value, told)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        """Return the body, or None when the client has gone.

        Raises:
            UnreadError: it is too large, too slow, or one of too many.
        """
        first = await receive()
        try:
            with self.body_room.reserved(scope, first, bytes_max=self._body_bytes_max):
                return await read_body(scope, receive, first, bytes_max=self._body_bytes_max)
        except BodyTooLargeError as error:
            raise UnreadError(self._too_large([] if error.read_to_end else [CLOSE])) from None
        except NoRoomError:
            raise UnreadError(_detail(503, NO_ROOM, [RETRY_AFTER, CLOSE])) from None
        except TimeoutError:
            raise UnreadError(_detail(408, f"the body did not arrive within {BODY_TIMEOUT_S:.0f} s", [CLOSE])) from None

    def _too_large(self, headers: Headers) -> Answer:
        self._count_refused(Reason.TOO_LARGE)
        return _detail(413, f"the body has more than {self._body_bytes_max} bytes", headers)

    async def _user_of(self, txn: AnalyticsTxn, submission: Submission) -> str:
        """Return who it was, empty when nobody knows: the body's user, else the session's; of both together is learned."""
        if not submission.session:
            return txn.pennkey or ""
        if not txn.pennkey:
            return await self.sessions.user_of(submission.session)
        self.sessions.learn(submission.session, txn.pennkey)
        return txn.pennkey

    def _count_refused(self, reason: Reason) -> None:
        self.metrics.events.labels("refused").inc()
        self.metrics.refused.labels(reason.value).inc()


def submission_of(headers: Headers, identity: Identity) -> Submission:
    """Return who sends a request, and what its headers say of the transaction.

    Raises:
        InvalidEventError: its `Idempotency-Key` is not of 1 to 256 visible characters.
    """
    session = _header(headers, SESSION_HEADER)
    key = _header(headers, IDEMPOTENCY_HEADER)
    if key is not None and not _IDEMPOTENCY_KEY.fullmatch(key):
        raise InvalidEventError(Reason.SCHEMA, "Idempotency-Key: should have 1 to 256 visible characters")
    return Submission(identity.name, identity.scheme, digest_of(session) if session else "", (key or b"").decode("ascii"))


def _header(headers: Headers, wanted: bytes) -> bytes | None:
    return next((value for name, value in headers if name == wanted), None)


def _detail(status: int, text: str, headers: Headers | None = None) -> Answer:
    """Return an error in the form that the products know."""
    return Answer(status, msgspec.json.encode({"detail": text}), headers or [])
