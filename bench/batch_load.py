"""Send many events a request to `/v1/events` as cheaply as it goes, as `bench.tag_load` does; one JSON line.

Bodies are made before; only the first eight digits of all ids in one are put in when it is sent, so that no event comes twice.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, cycle
from pathlib import Path
from random import Random

from bench.tag_load import HEAD_END, Connection, Plan, TagLoad, options, told
from streams.clock import SYSTEM_CLOCK
from streams.event_time import format_instant

BODIES_PREPARED = 50
USERS = 10_000
"""Of all bodies, equally likely: a request of 500 events has hardly one user twice."""
TYPES = ("page_viewed", "course_searched", "club_visited", "menu_opened", "laundry_checked")
MARK = b"@@@@@@@@"
"""Stands for the digits that are put in."""
OK = b'"result":"ok"'
ANSWERED = b"HTTP/1.1 200 "
TOO_MANY = b"HTTP/1.1 429 "
LENGTH = b"content-length: "


@dataclass(frozen=True, kw_only=True)
class BatchPlan(Plan):
    """What to send.

    Attributes:
        events: of one request.
        credentials: file of values of the header `Authorization`, one a line, which take turns; None: none.
        past_quota: an answer of 429 is right too, and counted as `refused`.
    """

    events: int
    credentials: Path | None
    past_quota: bool = False


class BatchLoad(TagLoad):
    """One run of a plan."""

    def __init__(self, plan: BatchPlan) -> None:
        self._batch = plan
        self.refused = 0
        super().__init__(plan)

    async def run(self) -> dict[str, float]:
        return await super().run() | {"refused": self.refused}

    def requests(self) -> Iterator[bytes]:
        """Yield requests whose ids no other has."""
        first = SYSTEM_CLOCK.now_ms() % 2**24 * 2**8  # so that no run has the ids of one before
        for number, request in zip(count(first), cycle(list(prepared(self._batch))), strict=False):
            yield request.replace(MARK, b"%08x" % (number % 2**32))

    def connection(self) -> Connection:
        return BatchConnection(self, self._batch)


class BatchConnection(Connection):
    """One kept connection; an answer has a result for each event."""

    def __init__(self, load: BatchLoad, plan: BatchPlan) -> None:
        super().__init__(load)
        self._batch_load = load
        self._plan = plan

    def is_whole(self, received: bytes) -> bool:
        head, end, body = received.partition(HEAD_END)
        return bool(end) and len(body) >= length_of(head)

    def is_right(self, received: bytes) -> bool:
        if self._plan.past_quota and received.startswith(TOO_MANY):
            self._batch_load.refused += 1
            return True
        return received.startswith(ANSWERED) and received.count(OK) == self._plan.events


def length_of(head: bytes) -> int:
    """Return the length of the body of an answer.

    >>> length_of(b"HTTP/1.1 200 OK\\r\\ncontent-length: 12\\r\\ndate: x")
    12
    """
    return int(head.lower().partition(LENGTH)[2].partition(b"\r\n")[0])


def prepared(plan: BatchPlan) -> Iterator[bytes]:
    """Yield requests, head and body as they go over the wire, but for the digits."""
    drawn = Random(plan.seed)
    host = b"POST /v1/events HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\n" % plan.port
    heads = [host] if plan.credentials is None else [host + line for line in authorizations(plan.credentials)]
    for body_number, head in zip(range(BODIES_PREPARED), cycle(heads), strict=False):
        events = [an_event(drawn, body_number * plan.events + number) for number in range(plan.events)]
        body = json.dumps({"batch": events}, separators=(",", ":")).encode()
        yield b"%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body)


def authorizations(credentials: Path) -> list[bytes]:
    """Return header lines, one for each line of a file."""
    return [b"Authorization: %b\r\n" % line for line in credentials.read_bytes().splitlines()]


def an_event(drawn: Random, number: int) -> dict[str, object]:
    """Return an event of some 290 bytes, as a page would send it."""
    return {
        "id": f"{MARK.decode()}-0000-4000-8000-{number:012x}",
        "type": drawn.choice(TYPES),
        "user_id": f"user-{drawn.randrange(USERS):08d}",
        "time": format_instant(SYSTEM_CLOCK.now_ms() - drawn.randrange(1_000)),
        "properties": {"path": "/menus/today", "duration_ms": drawn.randrange(10_000), "ok": True, "tags": ["a", "b"]},
        "context": {"library": "tally-client/1.0", "page": {"title": "Menus"}},
    }


def main() -> int:
    """Return the exit code."""
    parser = options("python -m bench.batch_load", __doc__, connections=8)
    parser.add_argument("--events", type=int, default=500, help="of a request")
    parser.add_argument("--credentials", type=Path, default=None, help="file of values of Authorization, one a line")
    parser.add_argument("--past-quota", action="store_true", help="429 is a right answer too")
    plan = BatchPlan(**vars(parser.parse_args()))
    return told(lambda: BatchLoad(plan))


if __name__ == "__main__":
    sys.exit(main())
