"""Speak HTTP as uvicorn does, but for the hot route: an event that arrived whole is answered without a task of its own.

The short way takes a `POST /user_tags` whose head and body came at once and whose event is right. It is appended to its batch
here, and the batch tells its fate here. Everything else takes the usual way through `gateway.user_tags`, which knows all limits
and says what is wrong: bodies in pieces or over the limit, refused events, requests that wait behind another.
"""

from __future__ import annotations

import asyncio
import logging
from functools import lru_cache
from time import perf_counter
from typing import Any

from gateway.answers import CLOSE, JSON_TYPE, RETRY_AFTER, Headers, error_body, whole_answer
from gateway.lanes import Fate
from gateway.limited import LimitedProtocol
from gateway.request_id import has_id
from gateway.user_tags import PATH, UserTags

log = logging.getLogger(__name__)

TAGS_URL = PATH.encode("ascii")


@lru_cache(maxsize=2)
def no_content(*headers: tuple[bytes, bytes]) -> bytes:
    """Return the answer of success; its headers change once a second, with the date."""
    return whole_answer(204, list(headers))


class ShortCycle:
    """Stands where uvicorn keeps the newest request of a connection; one a connection, used again and again."""

    __slots__ = ("disconnected", "keep_alive", "message_event", "response_complete")

    def __init__(self) -> None:
        self.disconnected = False
        self.keep_alive = True
        self.message_event = asyncio.Event()
        self.response_complete = True


class Protocol(LimitedProtocol):
    """One connection."""

    def __init__(self, *arguments: Any, user_tags: UserTags | None, **named: Any) -> None:
        """Make one for a connection that is about to be; *user_tags* is None where every request is to be logged."""
        super().__init__(*arguments, **named)
        self._user_tags = user_tags
        self._short = ShortCycle()
        self._held: bytes | None = None
        self._started_s = 0.0

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._held is not None and not self.transport.is_closing():
            self._take_usual_way()

    def begin(self) -> None:
        if self._user_tags is not None and self.url == TAGS_URL and self._may_be_short():
            self._held = b""
        else:
            super().begin()

    def take(self, body: bytes) -> None:
        if self._held is None:
            super().take(body)
            return
        assert self._user_tags is not None
        self._held += body
        if len(self._held) > self._user_tags.body_bytes_max:
            self._take_usual_way()

    def complete(self) -> None:
        if self._held is not None:
            try:
                if self._append(self._held):
                    self._held = None
                    return
            except Exception as error:  # The parser would make a bug of ours the client's: a 400.
                log.exception("a request failed: %s", type(error).__name__, extra={"method": "POST"})
                self._held = None
                self._fail()
                return
            self._take_usual_way()
        super().complete()

    def _may_be_short(self) -> bool:
        """Say whether nothing of the request so far needs more than its event's fate for an answer."""
        parser, cycle = self.parser, self.cycle
        return (
            (cycle is None or cycle.response_complete)
            and parser.get_method() == b"POST"
            and parser.get_http_version() == "1.1"
            and parser.should_keep_alive()
            and not (self.expect_100_continue or self.flow.write_paused)
            and (self.limit_concurrency is None or len(self.connections) < self.limit_concurrency)
            and not has_id(self.headers)
        )

    def _take_usual_way(self) -> None:
        """Let uvicorn begin the request that was held back."""
        held, self._held = self._held, None
        super().begin()
        if held:
            super().take(held)

    def _append(self, raw: bytes) -> bool:
        """Hand an event over, if it is right; its fate comes to `_answer`, at once or later."""
        assert self._user_tags is not None
        self._started_s = perf_counter()
        short = self._short
        before, self.cycle = self.cycle, short  # type: ignore[assignment] # it has what uvicorn asks of one
        short.response_complete = False
        if self._user_tags.append(raw, self._answer):
            return True
        self.cycle = before
        short.response_complete = True
        return False

    def _fail(self) -> None:
        """Answer that the gateway is wrong, and not the request."""
        self._short.response_complete = True
        body = error_body("bug", "the gateway failed on this request")
        self.transport.write(whole_answer(500, [JSON_TYPE, CLOSE], body))
        self.transport.close()

    def _answer(self, fate: Fate) -> None:
        """Answer the request that is waiting on an event's fate."""
        assert self._user_tags is not None
        short = self._short
        short.response_complete = True
        headers: Headers = self.server_state.default_headers
        if not short.keep_alive:
            headers = [*headers, CLOSE]
        if fate is None:
            self._user_tags.count_stored(perf_counter() - self._started_s)
            answer = no_content(*headers)
        else:
            self._user_tags.count(503)
            answer = whole_answer(503, [*headers, JSON_TYPE, RETRY_AFTER], error_body(*fate))
        if short.disconnected or self.transport.is_closing():
            return
        self.transport.write(answer)
        if not short.keep_alive:
            self.transport.close()
        self.on_response_complete()
