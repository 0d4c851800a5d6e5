"""B1: requests that nobody can take, of every kind, beside good ones: each is refused, none is stored, memory stays."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote_from_bytes

from tests.fault.by_hand import a_request, code_of, exchange, next_event, post_event
from tests.fault.case import Case, Workload
from tests.fault.checks import EXACT
from tests.fault.evidence import Evidence
from tests.fault.ledger import Outcome, Way
from tests.fault.processes import peak_bytes, resident_bytes
from tests.fault.stage import GATEWAY, Stage

ROUNDS, ROUNDS_LONG = 10, 200
AT_ONCE = 16
MIB = 1 << 20
LIMIT_BYTES = 65_536
"""`gateway.body_bytes_max`."""
GROWN_MIB_MAX = 64
BOMB_MIB = 48
"""Packed it just fits the limit of a body."""
BOMB = gzip.compress(bytes(BOMB_MIB * MIB))
ENDLESS_MIB = 64
SLOW_CONNECTIONS = 50
FORM = "Content-Type: application/x-www-form-urlencoded\r\n"
GZIP = "Content-Encoding: gzip\r\n"
CHUNKED = "Transfer-Encoding: chunked\r\n"
BAD_MARK = b'"origin":"bad-request"'
"""In every event that rides on a bad request."""

Pieces = Iterable[bytes]


def endless(value: bytes) -> Iterator[bytes]:
    """Yield chunks, the event first, until far beyond any limit."""
    yield a_request(b"", headers=CHUNKED) + b"%x\r\n%b\r\n" % (len(value), value)
    for _ in range(ENDLESS_MIB * 16):
        yield b"10000\r\n" + b" " * LIMIT_BYTES + b"\r\n"


REQUESTS: dict[str, tuple[Callable[[bytes], Pieces], set[int]]] = {
    "no JSON": (lambda value: [a_request(value[:-1])], {400}),
    "no body": (lambda value: [a_request(b"")], {400}),
    "two events": (lambda value: [a_request(value + value)], {400}),
    "packed": (lambda value: [a_request(gzip.compress(value), headers=GZIP)], {400, 415}),
    "packed and cut": (lambda value: [a_request(gzip.compress(value)[:-9], headers=GZIP)], {400, 415}),
    "a bomb": (lambda value: [a_request(gzip.compress(value) + BOMB, headers=GZIP)], {400, 413, 415}),
    "a form": (lambda value: [a_request(b"event=" + quote_from_bytes(value).encode(), headers=FORM)], {400, 415}),
    "over the limit": (lambda value: [a_request(value[:-1] + b" " * LIMIT_BYTES + b"}")], {413}),
    "a gigabyte, it says": (lambda value: [a_request(value, headers="Content-Length: 1073741824\r\n")], {413}),
    "endless": (endless, {413}),
    "slow": (lambda value: [a_request(value[:100], headers=f"Content-Length: {len(value)}\r\n")], {408}),
    "GET": (lambda value: [a_request(value, method="GET")], {405}),
    "PUT": (lambda value: [a_request(value, method="PUT")], {405}),
    "DELETE": (lambda value: [a_request(value, method="DELETE")], {405}),
    "another path": (lambda value: [a_request(value, path="/user_tags/")], {404}),
    "no HTTP": (lambda value: [b"\x16\x03\x01" + value + b"\r\n\r\n"], {400}),
    "two lengths": (lambda value: [a_request(value, headers="Content-Length: 5\r\nContent-Length: 9\r\n")], {400}),
}
"""By what is wrong: the pieces of a request that carries an event, and the statuses that are right."""


def inject(stage: Stage) -> None:
    before_mib = resident_bytes(stage.pid(GATEWAY)) / MIB
    stage.mark("bad requests")
    wrong: list[str] = []
    with ThreadPoolExecutor(AT_ONCE + SLOW_CONNECTIONS) as pool:
        answers = [pool.submit(refuse, stage, "slow", wrong) for _ in range(SLOW_CONNECTIONS)]
        for _ in range(ROUNDS_LONG if stage.is_long else ROUNDS):
            names = [name for name in REQUESTS if name != "slow"]
            stage.chance.shuffle(names)
            answers += [pool.submit(refuse, stage, name, wrong) for name in names]
        for answer in answers:
            answer.result()
    assert not wrong, sorted(set(wrong))
    grown_mib = peak_bytes(stage.pid(GATEWAY)) / MIB - before_mib
    stage.say(f"the gateway had grown by {grown_mib:.0f} MiB at most, of {before_mib:.0f}")
    assert grown_mib <= GROWN_MIB_MAX, f"the gateway grew by {grown_mib:.0f} MiB"
    assert exchange(stage.gateway_port, [a_request(b"", path="/live", method="GET")], method="GET").status == 200


def refuse(stage: Stage, name: str, wrong: list[str]) -> None:
    """Send one bad request; what is not answered as it should be goes to *wrong*."""
    number, (_, value) = next_event(stage)
    value = re.sub(rb'"origin":"[^"]*"', BAD_MARK, value)
    pieces_of, statuses = REQUESTS[name]
    answer = post_event(stage, number=number, value=value, request=pieces_of(value))
    if answer.status not in statuses:
        wrong.append(f"{name}: status {answer.status}, not one of {sorted(statuses)}")
    elif not code_of(answer):
        wrong.append(f"{name}: an answer that is no error in JSON: {answer.body[:100]!r}")


def others_were_fine(evidence: Evidence) -> Iterator[str]:
    """Every good request was acknowledged, whatever was sent beside it; every bad one was refused."""
    for entry in evidence.ledger:
        expected = Outcome.REFUSED if BAD_MARK in entry.value else Outcome.ACKNOWLEDGED
        if entry.way is Way.HTTP and entry.outcome is not expected:
            yield f"event {entry.number} was {entry.outcome.value} and should have been {expected.value}"


CASE = Case(
    id="B1",
    title="bad requests",
    inject=inject,
    workload=Workload(http_share=0.5),
    checks=(*EXACT, others_were_fine),
)
