"""Keep a connection within limits, and to what all agree on as HTTP/1.1: head, time, framing, how often one client may ask.

The parser (llhttp) refuses what a proxy before us might frame otherwise: two lengths, a length and chunks, folded lines, bare
line feeds. What it lets through is refused here: no host or two, other transfer codings than chunks, chunks of HTTP/1.0.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from itertools import chain
from typing import Any

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.answers import CLOSE, JSON_TYPE, Scope, Send, answer, error_body, whole_answer
from gateway.lingering import LingeringTransport
from gateway.rates import Rates

HEAD_BYTES_MAX = 65_536
"""Names and values. A query with three filters of 512 characters of four bytes, percent-encoded, has 20,000."""
URL_BYTES_MAX = 32_768
HEADERS_MAX = 100
OVERHEAD_BYTES_MAX = 1_048_576
"""Bytes of a request that are no body: a line that never ends, chunks of a byte each, trailers."""
HEAD_TIMEOUT_S = 10
MESSAGE_TIMEOUT_S = 15
"""Longer than a route waits for a body, which says so in its own words."""
IDLE_TIMEOUT_S = 75
"""Longer than clients and balancers keep idle connections, so that they end them and never meet a closed one."""
UNREAD_TIMEOUT_S = 60
"""A client that takes nothing of what waits for it for so long is gone, or wants to hold our memory."""
CHECK_S = 1.0
Refusal = tuple[int, str, str]

NOT_HTTP: Refusal = (400, "not_http", "the request is not valid HTTP")
HEAD_TOO_LARGE: Refusal = (431, "head_too_large", f"the head has more than {HEAD_BYTES_MAX} bytes or {HEADERS_MAX} headers")
URL_TOO_LONG: Refusal = (414, "url_too_long", f"path and query have more than {URL_BYTES_MAX} bytes")
BAD_HOST: Refusal = (400, "not_http", "a request of HTTP/1.1 has one Host header")
BAD_CODING: Refusal = (501, "transfer_coding", "of transfer codings only chunked is known, and not in HTTP/1.0")
TIMEOUT: Refusal = (408, "request_timeout", "the request did not arrive in time")
HINT = "percent-encode the path and the query"
UPGRADES = frozenset({b"upgrade", b"http2-settings"})


class RefusedError(Exception):
    """The request is refused while it is parsed; the parser makes an error of its own of it."""


class LimitedProtocol(HttpToolsProtocol):
    """One connection of uvicorn's, within limits."""

    def __init__(self, *arguments: Any, rates: Rates | None = None, **named: Any) -> None:
        """Make one for a connection that is about to be; *rates* is None where clients are not limited."""
        super().__init__(*arguments, **named)
        self._rates = rates
        self._refusal: Refusal | None = None
        self._seconds = 0
        """Since the last request began or ended, as `check` counts."""
        self._in_head = False
        self._in_message = False
        self._has_begun = False
        self._overhead_bytes = 0
        self._may_be_large = False
        self._unread_bytes = 0
        self._unread_seconds = 0

    # -- uvicorn's and the parser's callbacks

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        super().connection_made(transport)
        self.transport = LingeringTransport(transport, self, lambda: self._in_message)  # type: ignore[assignment] # it is one

    def data_received(self, data: bytes) -> None:
        """Feed the parser; a request for another protocol is taken for one of this, as nothing else is spoken here."""
        self._unset_keepalive_if_required()
        self._overhead_bytes += len(data)
        self._may_be_large = self._overhead_bytes > HEAD_BYTES_MAX
        while data:
            try:
                self.parser.feed_data(data)
                data = b""
            except HttpParserUpgrade as upgrade:
                data = self._stay(data, upgrade.args[0])
            except HttpParserError:
                self.refuse(self._refusal or NOT_HTTP)
                return
        if self._in_message and self._overhead_bytes > OVERHEAD_BYTES_MAX:
            self.refuse(HEAD_TOO_LARGE)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = self._in_message = True
        self._has_begun = False
        self._seconds = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        headers = self.headers
        headers.append((name.lower(), value))
        if len(headers) > HEADERS_MAX or (self._may_be_large and sum(map(len, chain.from_iterable(headers))) > HEAD_BYTES_MAX):
            self._give_up(HEAD_TOO_LARGE)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._check_head()
        if self._may_upgrade():
            return  # it comes again, without the upgrade
        if self._rates is not None and (wait_s := self._rates.wait_s(self.client)):
            self._begin_refused(wait_s)
        else:
            self.begin()

    def _check_head(self) -> None:
        """Refuse a head that is right for the parser, but not for us."""
        version = self.parser.get_http_version()
        if len(self.url) > URL_BYTES_MAX:
            self._give_up(URL_TOO_LONG)
        if version not in ("1.1", "1.0"):
            self._give_up(NOT_HTTP)
        hosts = 0
        for name, value in self.headers:
            if name == b"host":
                hosts += 1
            elif name == b"transfer-encoding" and (version == "1.0" or value.lower() != b"chunked"):
                self._give_up(BAD_CODING)
            elif name == b"expect" and value.lower() == b"100-continue":
                self.expect_100_continue = True
        if hosts != 1 and (hosts or version == "1.1"):
            self._give_up(BAD_HOST)

    def on_body(self, body: bytes) -> None:
        self._overhead_bytes -= len(body)
        self.take(body)

    def on_message_complete(self) -> None:
        self._in_message = False
        self._seconds = self._overhead_bytes = 0
        if not self._may_upgrade():
            self.complete()

    def resume_writing(self) -> None:
        """Go on with an answer that waited: its client has taken some of it, and there may soon be as much again."""
        super().resume_writing()
        self._unread_seconds = 0

    def shutdown(self) -> None:
        """Go on with what is being answered, and close at once where nothing is, whatever the client is still sending."""
        super().shutdown()
        if self.transport.is_closing():
            self.transport.close()

    # -- what the short way changes

    def begin(self) -> None:
        """Begin the request whose head is complete."""
        self._has_begun = True
        super().on_headers_complete()

    def take(self, body: bytes) -> None:
        """Take a part of the body."""
        super().on_body(body)

    def complete(self) -> None:
        """Go on with the request that is complete."""
        super().on_message_complete()

    # -- refusing

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP in JSON too."""
        self.refuse(NOT_HTTP)

    def refuse(self, refusal: Refusal) -> None:
        """Answer what is wrong, if nothing is being answered, and close: where the next request would begin is unknown."""
        cycle = self.cycle
        is_idle = cycle is None or cycle.response_complete
        if not is_idle and not self._has_begun:
            cycle.keep_alive = False  # the request before has its answer first, which closes
            self.flow.pause_reading()
            return
        if is_idle or not (self.pipeline or cycle.response_started):
            status, code, message = refusal
            body = error_body(code, message, HINT if refusal is NOT_HTTP else None)
            self.transport.write(whole_answer(status, [JSON_TYPE, CLOSE], body))
        self._in_message = True  # as far as we know
        self.transport.close()
        if not is_idle:
            cycle.disconnected = True  # Though its client is read on: no more of the request comes, nor has it another answer.
            cycle.message_event.set()

    def check(self) -> None:
        """Close a connection that is too slow, or idle for long; called every `CHECK_S`."""
        if self._is_unread():
            self.transport.abort()
        if self.flow is None or self.flow.read_paused or self.transport.is_closing():
            return  # we are slow, and not the client; or it is on its way out
        self._seconds += 1
        if self._in_message:
            if self._seconds > (HEAD_TIMEOUT_S if self._in_head else MESSAGE_TIMEOUT_S):
                self.refuse(TIMEOUT)
        elif self._seconds > IDLE_TIMEOUT_S and (self.cycle is None or self.cycle.response_complete):
            self.transport.close()

    def _is_unread(self) -> bool:
        """Count the checks since the client last took something of what waits for it."""
        waiting_bytes = 0 if self.transport is None else self.transport.get_write_buffer_size()
        self._unread_seconds = self._unread_seconds + 1 if waiting_bytes and waiting_bytes >= self._unread_bytes else 0
        self._unread_bytes = waiting_bytes
        return self._unread_seconds > UNREAD_TIMEOUT_S

    def _give_up(self, refusal: Refusal) -> None:
        self._refusal = refusal
        raise RefusedError

    def _begin_refused(self, wait_s: int) -> None:
        """Begin the request, but have it answered 429 instead of by the application."""
        application, self.app = self.app, too_many(wait_s)
        try:
            super().on_headers_complete()
        finally:
            self.app = application

    # -- requests to change the protocol

    def _may_upgrade(self) -> bool:
        return self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"

    def _stay(self, data: bytes, offset: int) -> bytes:
        """Return what to parse instead: the request that asked for another protocol, without that, and what follows it.

        The parser ends at such a head, and its body would be lost. Java's client asks for HTTP/2 so with its first request.
        """
        if self.parser.get_method() == b"CONNECT":
            self.refuse(NOT_HTTP)
            return b""
        kept = [(name, value) for name, value in self.headers if name not in UPGRADES and name != b"connection"]
        tokens = [token.strip() for name, value in self.headers if name == b"connection" for token in value.split(b",")]
        others = [token for token in tokens if token.lower() not in UPGRADES]
        if others:
            kept.append((b"connection", b", ".join(others)))
        head = [b"%b %b HTTP/1.1" % (self.parser.get_method(), self.url), *(b"%b: %b" % header for header in kept)]
        self.parser = HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return b"\r\n".join(head) + b"\r\n\r\n" + data[offset:]


def too_many(wait_s: int) -> Any:
    """Return an application that answers every request 429."""
    body = error_body("too_many_requests", f"this client asks too often; again in {wait_s} s")
    headers = [(b"retry-after", b"%d" % wait_s)]

    async def application(scope: Scope, receive: Any, send: Send) -> None:
        await answer(send, 429, body, headers)

    return application


async def watch(connections: Iterable[Any]) -> None:
    """Have every connection checked, again and again, until cancelled."""
    while True:
        await asyncio.sleep(CHECK_S)
        for connection in list(connections):
            connection.check()
