"""HTTP by the standard library: POST over kept connections, redirects followed with care, one error for all failures."""

from __future__ import annotations

import encodings.idna  # noqa: F401 - looked up by name with each host: a fork in the middle of that leaves a child without it
import http.client
import select
import socket
import ssl
import threading
from collections.abc import Mapping
from typing import NamedTuple, Protocol
from urllib.parse import urljoin, urlsplit

from tally_client.errors import TransportError

REDIRECTS_MAX = 3
ANSWER_BYTES_MAX = 4_000_000
"""A thousand results have 200 KB; what is longer is no answer of a collector."""
IDLE_CONNECTIONS_MAX = 10
REQUEST_TIMEOUT_S = 10.0
KEPT_BY_REDIRECT = (307, 308)
"""Other redirects would turn a POST into a GET."""


class Answer(NamedTuple):
    """What a server said: status, headers by lower-case name, body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Transport(Protocol):
    """What sends a request and returns its answer. Safe for several threads at once."""

    def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """POST *body* to a path of the server, or to an absolute URL, and return the answer, whatever its status.

        Raises:
            TransportError: no answer came within the timeout; the request may have arrived all the same.
        """
        ...

    def close(self) -> None:
        """Close every connection, those in use too: who waits for an answer gets a `TransportError`. None is kept any more."""
        ...

    def forget(self) -> None:
        """Let go of connections without a word to the server: after a fork they are the parent's."""
        ...


class Target(NamedTuple):
    """Where a connection leads, and the path to ask for."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def origin(self) -> tuple[str, str, int]:
        return self.scheme, self.host, self.port


def target_of(url: str) -> Target:
    """Take an absolute URL apart.

    Raises:
        ValueError: neither http nor https, no host, or a name and password inside. The message does not show it.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("the url must be http:// or https:// with a host")
    if parts.username or parts.password:
        raise ValueError("the url must not hold a name or password: give credentials instead")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not (path.isascii() and path.isprintable()) or " " in path:
        raise ValueError("the url must have other characters than ASCII, and spaces, as %XX")
    return Target(parts.scheme, parts.hostname, port, path)


def absolute(base: str, path: str) -> str:
    """Return the URL of a path below *base*; one that is absolute already is kept.

    >>> absolute("https://tally.example/v1/", "/analytics/")
    'https://tally.example/v1/analytics/'
    """
    return path if "://" in path else base.rstrip("/") + path


def keeps_authorization(before: Target, after: Target) -> bool:
    """Say whether a redirect may carry the credentials along: the same origin, or the same host's way up to TLS."""
    upgraded = (before.scheme, before.port, after.scheme, after.port) == ("http", 80, "https", 443)
    return before.host == after.host and (before.origin == after.origin or upgraded)


def redirected(url: str, answer: Answer, headers: Mapping[str, str]) -> tuple[str, Mapping[str, str]] | None:
    """Return where an answer sends the same POST, and with which headers; nothing where it is a final answer.

    Raises:
        TransportError: it leads to what is no URL, or out of TLS, where everybody on the way could read the events.
    """
    location = answer.headers.get("location")
    if answer.status not in KEPT_BY_REDIRECT or not location:
        return None
    following = urljoin(url, location)
    try:
        before, after = target_of(url), target_of(following)
    except ValueError as error:
        raise TransportError("the server redirected to what is no URL") from error
    if before.scheme == "https" != after.scheme:
        raise TransportError("the server redirected from https to http")
    kept = keeps_authorization(before, after)
    if kept:
        return following, headers
    return following, {name: value for name, value in headers.items() if name.lower() != "authorization"}


class HttpTransport:
    """A `Transport` over `http.client`, with kept connections by origin.

    Args:
        url: of the server; paths are appended to it.
        timeout_s: for connecting, and for each wait for bytes.
        tls: how https is checked; the system's authorities by default.

    Raises:
        ValueError: the URL cannot be one of a server.
    """

    def __init__(self, url: str, *, timeout_s: float = REQUEST_TIMEOUT_S, tls: ssl.SSLContext | None = None) -> None:
        target_of(url)
        self._url = url
        self._timeout_s = timeout_s
        self._tls = tls
        self._begin()

    def forget(self) -> None:
        """See `Transport.forget`: what is closed here is this process's end only."""
        for connection in [*self._used, *(each for kept in self._idle.values() for each in kept)]:
            connection.close()
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._idle: dict[tuple[str, str, int], list[http.client.HTTPConnection]] = {}
        self._used: set[http.client.HTTPConnection] = set()
        self._closed = False

    def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """See `Transport.post`."""
        url = absolute(self._url, path)
        for _ in range(REDIRECTS_MAX + 1):
            answer = self._ask(target_of(url), body, headers)
            following = redirected(url, answer, headers)
            if following is None:
                return answer
            url, headers = following
        raise TransportError(f"the server redirected more than {REDIRECTS_MAX} times")

    def close(self) -> None:
        """See `Transport.close`."""
        with self._lock:
            idle = [connection for kept in self._idle.values() for connection in kept]
            used = list(self._used)
            self._idle.clear()
            self._closed = True  # What is answered from now on is not kept.
        for connection in idle:
            connection.close()
        for connection in used:
            if connection.sock is not None:
                try:  # Only this wakes a thread that waits for bytes; that thread closes.
                    connection.sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue

    def _ask(self, target: Target, body: bytes, headers: Mapping[str, str]) -> Answer:
        connection = self._connection(target)
        kept = False
        try:
            connection.request("POST", target.path, body=body, headers=dict(headers))
            with connection.getresponse() as response:
                content = response.read(ANSWER_BYTES_MAX + 1)
                if len(content) > ANSWER_BYTES_MAX or response.length:  # A read that is given a limit says nothing of a cut.
                    raise TransportError(f"the answer from {target.host}:{target.port} is cut, or too long")
                kept = not response.will_close
                return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, content)
        except (OSError, http.client.HTTPException, ValueError, LookupError) as error:
            raise TransportError(f"no answer from {target.host}:{target.port}: {type(error).__name__}") from error
        finally:
            self._give_back(target, connection, kept=kept)

    def _connection(self, target: Target) -> http.client.HTTPConnection:
        with self._lock:
            idle = self._idle.get(target.origin, [])
            while idle:
                connection = idle.pop()
                if not is_closed_by_peer(connection):
                    self._used.add(connection)
                    return connection
                connection.close()
            connection = self._connect(target)
            self._used.add(connection)
            return connection

    def _connect(self, target: Target) -> http.client.HTTPConnection:
        if target.scheme == "https":
            self._tls = self._tls or ssl.create_default_context()  # Once: it reads every authority of the system.
            return http.client.HTTPSConnection(target.host, target.port, timeout=self._timeout_s, context=self._tls)
        return http.client.HTTPConnection(target.host, target.port, timeout=self._timeout_s)

    def _give_back(self, target: Target, connection: http.client.HTTPConnection, *, kept: bool) -> None:
        with self._lock:
            self._used.discard(connection)
            idle = self._idle.setdefault(target.origin, [])
            if kept and not self._closed and len(idle) < IDLE_CONNECTIONS_MAX:
                idle.append(connection)
                return
        connection.close()


def is_closed_by_peer(connection: http.client.HTTPConnection) -> bool:
    """Say whether an idle connection has something to read: nothing was asked, so it can only be its end."""
    if connection.sock is None:
        return True
    poller = select.poll() if hasattr(select, "poll") else None
    if poller is None:
        return bool(select.select([connection.sock], [], [], 0)[0])
    poller.register(connection.sock, select.POLLIN)
    return bool(poller.poll(0))
