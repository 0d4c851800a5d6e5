"""Send what the load does not send: single requests and records of a case's own making; the ledger knows them too."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from stack.ports import LOOPBACK
from streams.partitioner import partition_of
from streams.topics import USER_TAGS
from tests.fault.events import an_event
from tests.fault.ledger import Outcome, Way
from tests.fault.load import outcome_of
from tests.fault.stage import Stage
from tests.support.bad_records import throw
from tests.support.job import Answer
from tests.support.tags import Tag

TIMEOUT_S = 30.0
"""Longer than the gateway waits for anything."""
COOKIES = 20


def code_of(answer: Answer) -> str:
    """Return the code for programs of an error; empty where the answer is none in JSON."""
    try:
        return answer.error
    except (AssertionError, ValueError, KeyError, TypeError):
        return ""


def a_request(body: bytes, *, path: str = "/user_tags", method: str = "POST", headers: str = "") -> bytes:
    """Return the bytes of a request; *headers* are whole lines."""
    length = "" if "Content-Length" in headers or "chunked" in headers else f"Content-Length: {len(body)}\r\n"
    return f"{method} {path} HTTP/1.1\r\nHost: t\r\n{length}{headers}\r\n".encode("latin-1") + body


def exchange(port: int, pieces: Iterable[bytes], *, method: str = "POST") -> Answer:
    """Send pieces over a connection of their own until they end or nobody listens; return the answer, status 0 for none."""
    with socket.create_connection((LOOPBACK, port), timeout=TIMEOUT_S) as connection:
        with suppress(ConnectionError):
            for piece in pieces:
                connection.sendall(piece)
        answer = http.client.HTTPResponse(connection, method=method)
        try:
            answer.begin()
            return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
        except (OSError, http.client.HTTPException):
            return Answer(0, {}, b"")


def next_event(stage: Stage) -> tuple[int, Tag]:
    """Return the number of a new event, and the event."""
    number = stage.ledger.next_number()
    return number, an_event(stage.seed, number, cookies=COOKIES)


def post_event(stage: Stage, *, number: int = 0, value: bytes = b"", request: Iterable[bytes] = ()) -> Answer:
    """Send an event to the gateway and note its outcome.

    Args:
        number, value: of the event; without, a new one is made.
        request: the pieces that carry it; without, a usual request.
    """
    if not number:
        number, (_, value) = next_event(stage)
    stage.ledger.sent(number, value, Way.HTTP)
    answer = exchange(stage.gateway_port, request or [a_request(value)])
    stage.ledger.answered(number, outcome_of(answer.status, answer.body))
    return answer


def refused_for_now(stage: Stage, *, at_once: int = 8) -> None:
    """Send events and ask for `/ready` while Kafka is down: each answer must be 503 and say when to try again.

    Raises:
        AssertionError: one is not, or does not.
    """
    with ThreadPoolExecutor(at_once) as pool:
        answers = list(pool.map(lambda _: post_event(stage), range(at_once)))
    answers.append(exchange(stage.gateway_port, [a_request(b"", path="/ready", method="GET")], method="GET"))
    wrong = [answer for answer in answers if answer.status != 503 or not answer.headers.get("retry-after", "").isdigit()]
    assert not wrong, f"no 503 that says when to try again: {wrong}"


def throw_event(stage: Stage, number: int, value: bytes, *, cookie: str) -> None:
    """Write an event straight into its user's partition and note where it is."""
    key = cookie.encode()
    partition = partition_of(key, stage.system.partitions)
    stage.ledger.sent(number, value, Way.KAFKA)
    [offset] = throw(stage.kafka.servers, USER_TAGS.topic, [(key, value)], partition=partition)
    stage.ledger.answered(number, Outcome.ACKNOWLEDGED, (partition, offset))


def throw_dead(stage: Stage, records: Sequence[tuple[bytes | None, bytes | None, str]], *, partition: int) -> None:
    """Write records (key, value, reason) straight into a partition, of which each must become a dead letter."""
    pairs = [(key, value) for key, value, _ in records]
    offsets = throw(stage.kafka.servers, USER_TAGS.topic, pairs, partition=partition)
    for (*_, reason), offset in zip(records, offsets, strict=True):
        stage.ledger.expect_dead((partition, offset), reason)
