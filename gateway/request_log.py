"""Log requests when the settings ask for it: one line each, with headers and body only on demand, never with a secret."""

from __future__ import annotations

import logging
from time import perf_counter
from typing import Protocol

from gateway.answers import Message, Receive, Scope, Send
from gateway.request_id import HEADER, id_of, new_id
from streams.settings import Log

log = logging.getLogger(__name__)

SECRET_HEADERS = frozenset({b"authorization", b"proxy-authorization", b"cookie", b"x-api-key"})
BODY_BYTES_LOGGED_MAX = 4_096


class AsgiApp(Protocol):
    """An ASGI application."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...


class LoggedRequests:
    """Wrap an application; a request's line is written when its answer is complete."""

    def __init__(self, app: AsgiApp, settings: Log) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started_s = perf_counter()
        request_id = id_of(scope["headers"]) or new_id()
        scope["headers"] = [*(pair for pair in scope["headers"] if pair[0] != HEADER), (HEADER, request_id)]
        status = 0
        body = bytearray()

        async def receive_and_keep() -> Message:
            message = await receive()
            body.extend(message.get("body", b"")[: BODY_BYTES_LOGGED_MAX - len(body)])
            return message

        async def send_and_note(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        await self._app(scope, receive_and_keep if self._settings.bodies else receive, send_and_note)
        extra: dict[str, object] = {
            "method": scope["method"],
            "path": scope["path"] if self._settings.bodies else first_segment(scope["path"]),
            "status": status,
            "request_id": request_id.decode(),
            "duration_ms": round((perf_counter() - started_s) * 1000, 2),
        }
        if self._settings.headers:
            extra["headers"] = shown_headers(scope)
        if self._settings.bodies:
            extra["body"] = body.decode(errors="backslashreplace")
        log.info("request", extra=extra)


def first_segment(path: str) -> str:
    """Return a path without what may name a user.

    >>> first_segment("/user_profiles/9WkYGxkiXBfpMIjBGURC")
    '/user_profiles'
    """
    return "/" + path.split("/", 2)[1]


def shown_headers(scope: Scope) -> dict[str, str]:
    """Return the request's headers, those that hold secrets hidden."""
    return {
        name.decode("latin-1"): "hidden" if name in SECRET_HEADERS else value.decode("latin-1")
        for name, value in scope["headers"]
    }
