"""Send transactions to the intake of Labs (`POST /analytics/`), in the background and never in the way of the caller.

A transaction is what one user did at one time: a product, perhaps a pennkey, and datapoints of key and value. It is stored
whole or not at all, so it is sent whole: unlike a batch of events it is never split.
"""

from __future__ import annotations

import json
import logging
import os
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from types import TracebackType
from typing import Any

from tally_client import lifetimes
from tally_client.answers import judge
from tally_client.clock import SYSTEM_CLOCK, Clock, rfc3339
from tally_client.errors import CredentialsError, TransportError
from tally_client.events import QueuedEvent
from tally_client.hooks import Hooks
from tally_client.ids import new_id
from tally_client.options import AGE_S_MAX, Options
from tally_client.outbox import Stats
from tally_client.outcomes import Outcome, failed
from tally_client.pool import Job, Limits, Pool
from tally_client.tokens import Credentials, SharedCredentials
from tally_client.transport import REQUEST_TIMEOUT_S, Answer, HttpTransport
from tally_client.version import SDK, USER_AGENT

log = logging.getLogger(__name__)

ANALYTICS_PATH = "/analytics/"
IDEMPOTENCY_HEADER = "Idempotency-Key"
"""Names a transaction on every attempt, so that its retries count once."""
FLUSH_S = 10.0
"""What `flush` may take where its caller does not say."""
SETTLE_S = 0.2
"""Of the time for closing: what is kept back to count the requests that were broken off."""


class Product(IntEnum):
    """The products of Labs, by the number that stands for them on the wire."""

    OTHER = 0
    MOBILE_IOS = 1
    MOBILE_ANDROID = 2
    MOBILE_BACKEND = 3
    PORTAL = 4
    PCR = 5
    PDP = 6
    PCA = 7
    PCP = 8
    OHQ = 9
    CLUBS = 10


@dataclass(frozen=True)
class LabsOptions:
    """How a client queues, sends, gives up and tells.

    Attributes:
        threads: requests in flight at most.
        transactions_max: in memory and not delivered yet, those on their way included; a new one is refused then.
        bytes_max: the same in bytes of JSON.
        age_s_max: a transaction that is not delivered after so long is given up; at most 24 h.
        request_timeout_s: for connecting and for each wait for bytes.
        exit_timeout_s: what `close` and the interpreter's exit may take.
        tls: how https is checked; the system's authorities by default.
        on_success: called once for each transaction that the server has; in a thread of the client, as *on_error*.
        on_error: called once for each transaction that is not delivered and will not be. Not told of what it submits itself.
        clock: another one for tests.
    """

    threads: int = 10
    transactions_max: int = 10_000
    bytes_max: int = 32_000_000
    age_s_max: float = AGE_S_MAX
    request_timeout_s: float = REQUEST_TIMEOUT_S
    exit_timeout_s: float = 2.0
    tls: ssl.SSLContext | None = None
    on_success: Callable[[Outcome], object] | None = None
    on_error: Callable[[Outcome], object] | None = None
    clock: Clock = SYSTEM_CLOCK

    def __post_init__(self) -> None:
        for name in ("threads", "transactions_max", "bytes_max", "request_timeout_s", "exit_timeout_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"option {name} must be more than 0")
        if not 0 < self.age_s_max <= AGE_S_MAX:
            raise ValueError(f"option age_s_max must be more than 0 and at most {AGE_S_MAX:g}")


DEFAULTS = LabsOptions()


def transaction_of(
    data: Sequence[Mapping[str, str]],
    product: int,
    pennkey: str | None = None,
    timestamp: float | datetime | None = None,
    *,
    clock: Clock = SYSTEM_CLOCK,
) -> str:
    """Return the JSON of a transaction.

    Args:
        data: datapoints `{"key": …, "value": …}`, texts both; may be empty.
        product: one of `Product`; 0 is one of them.
        pennkey: whose; None where nobody is known.
        timestamp: seconds since 1970, or a datetime, a naive one in local time; now by default. 0 is a time.

    Raises:
        ValueError: no such product, a timestamp that is not finite, or a number in *data* that is not.
        TypeError: something else that has no JSON.
    """
    at = clock.wall_s() if timestamp is None else timestamp
    transaction = {
        "product": Product(product).value,
        "pennkey": pennkey,
        "timestamp": at.timestamp() if isinstance(at, datetime) else at,
        "data": [dict(each) for each in data],
    }
    return json.dumps(transaction, allow_nan=False, separators=(",", ":"))


class LabsClient:
    """Submits transactions by a pool of threads.

    Delivery: a transaction is sent until the server acknowledges it, refuses it or a day has passed; it counts once however
    often it was sent. What this process has not delivered when it ends is lost, and told as `not_sent`.

    Args:
        url: of the server, up to but without `/analytics/`.
        credentials: for example `PlatformTokens`; None sends no token.
        product: of transactions that do not say their own.

    Raises:
        ValueError: the URL cannot be one of a server.
    """

    def __init__(
        self,
        url: str,
        credentials: Credentials | None = None,
        *,
        product: Product = Product.OTHER,
        options: LabsOptions = DEFAULTS,
    ) -> None:
        self._product = product
        self._options = options
        self._clock = options.clock
        self._hooks = Hooks(Options(on_success=options.on_success, on_error=options.on_error))
        self._transport = HttpTransport(url, timeout_s=options.request_timeout_s, tls=options.tls)
        self._shared = SharedCredentials(credentials, self._transport.post)
        limits = Limits(options.threads, options.transactions_max, options.bytes_max, options.age_s_max)
        self._pool = Pool(self._send, self._abandon, limits=limits, clock=options.clock)
        self._begin()
        lifetimes.opened(self)

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._delivered = 0
        self._failed: Counter[str] = Counter()

    def submit(
        self,
        data: Sequence[Mapping[str, str]],
        product: int | None = None,
        pennkey: str | None = None,
        timestamp: float | datetime | None = None,
    ) -> bool:
        """Queue a transaction, see `transaction_of`; return at once, and never raise.

        Returns:
            Whether it will be sent. If not, it is among `Stats.failed`, and `on_error` has heard of it.
        """
        if self._pid != os.getpid():
            self.become_child()
        event = QueuedEvent(new_id(self._clock.wall_s()), b"", self._clock.elapsed_s())
        try:
            chosen = self._product if product is None else product
            text = transaction_of(data, chosen, pennkey, timestamp, clock=self._clock)
        except Exception as error:  # noqa: BLE001 - callers put anything in, and analytics must not break their work
            self._fail(event, "invalid_transaction", type(error).__name__)
            return False
        event = event._replace(body=text.encode("ascii"))
        refused = self._pool.put(Job(event))
        if refused:
            self._fail(event, refused)
        return not refused

    def stats(self) -> Stats:
        """Return what became of transactions in this process: accepted, delivered, failed by code, waiting."""
        with self._lock:
            delivered, failures = self._delivered, dict(self._failed)
        taken, waiting = self._pool.counts()
        return Stats(taken, delivered, failures, waiting)

    def flush(self, timeout_s: float = FLUSH_S) -> bool:
        """Wait until nothing is left to send, at most *timeout_s*; say whether that is so. Inside `on_error` it is safe too."""
        return self._pool.flush(timeout_s)

    def close(self, timeout_s: float | None = None) -> None:
        """Flush for a while (`exit_timeout_s`), then give up what is left (`not_sent`). A second call does nothing more."""
        lifetimes.closed(self)
        given_s = self._options.exit_timeout_s if timeout_s is None else timeout_s
        self._pool.flush(max(0.0, given_s - SETTLE_S))
        self._pool.close()
        self._transport.close()
        self._pool.flush(SETTLE_S)

    def __enter__(self) -> LabsClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # What the process does.

    def become_child(self) -> None:
        """Begin anew in a forked child: the parent sends what it has, with its own threads and connections."""
        if self._pid == os.getpid():
            return
        self._transport.forget()
        self._shared.forget()
        self._pool.forget()
        self._begin()

    def end(self, timeout_s: float) -> None:
        """Close because the process ends."""
        self.close(min(timeout_s, self._options.exit_timeout_s))

    # What the threads do.

    def _send(self, job: Job) -> float | None:
        """Make one attempt: None where that was the last, else how long (s) to wait at least."""
        event = job.event
        headers = self._headers(job)
        try:
            headers.update(self._shared.headers())
            reply: Answer | TransportError | CredentialsError = self._transport.post(ANALYTICS_PATH, event.body, headers)
        except (TransportError, CredentialsError) as error:
            reply = error
        if isinstance(reply, Answer) and reply.status == 200:
            self._deliver(event)
            return None
        if isinstance(reply, Answer) and reply.status == 401 and self._gets_other_token(job, headers.get("Authorization")):
            return 0.0
        verdict = judge(reply, [event], wall_s=self._clock.wall_s())
        for outcome in verdict.settled:
            self._fail(event, outcome.code, _detail_of(reply) or outcome.detail)
        return verdict.retry_after_s if verdict.again else None

    def _headers(self, job: Job) -> dict[str, str]:
        return {
            "Content-Type": "application/json",
            "User-Agent": USER_AGENT,
            "X-SDK": SDK,
            IDEMPOTENCY_HEADER: job.event.event_id,
            "X-Request-Id": job.event.event_id,
            "X-Attempt": str(job.attempts),
            "X-Sent-At": rfc3339(self._clock.wall_s()),
        }

    def _gets_other_token(self, job: Job, refused: str | None) -> bool:
        """Say whether there is, or can be, another token than the one that was refused; asked once a transaction."""
        was_refused, job.refused = job.refused, True
        return not was_refused and self._shared.replace(refused)

    def _abandon(self, job: Job, code: str) -> None:
        self._fail(job.event, code)

    def _deliver(self, event: QueuedEvent) -> None:
        with self._lock:
            self._delivered += 1
        self._hooks.tell([Outcome(event, "ok")])

    def _fail(self, event: QueuedEvent, code: str, detail: str = "") -> None:
        with self._lock:
            self._failed[code] += 1
            count = self._failed[code]
        if str(count).strip("0") == "1":  # The 1st, 10th, 100th, …: a server that is down shall not fill the log.
            log.warning("a transaction is given up: %s; %d so far", code, count)
        self._hooks.tell(failed([event], code, detail))


def _detail_of(reply: Any) -> str:
    """Return the sentence of an error as the intake of Labs writes it, or nothing."""
    try:
        detail = json.loads(reply.body)["detail"]
    except (AttributeError, ValueError, KeyError, TypeError, RecursionError):
        return ""
    return detail[:256] if isinstance(detail, str) else ""
