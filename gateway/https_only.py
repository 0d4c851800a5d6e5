"""Refuse what did not come by TLS, where `gateway.https_only` says so: what ends TLS in front of the gateway tells by a header.

Off, nothing of this is in a request's way: neither the application nor the connections are these.
"""

from __future__ import annotations

from gateway.answers import Headers, Receive, Scope, Send, answer, error_body
from gateway.auth.edge import FORWARDED_PROTO
from gateway.protocol import Protocol
from gateway.request_log import AsgiApp

OPEN_PATHS = frozenset({"/health", "/live", "/metrics", "/ready"})
"""Balancers and Prometheus ask for these from inside, without TLS; nobody's data is in them."""
HSTS = ("strict-transport-security", "max-age=31536000")
REFUSAL = error_body("https_only", "use https", "what ends TLS in front of the gateway sets X-Forwarded-Proto")


def came_by_tls(headers: Headers) -> bool:
    """Say whether all that a request tells of its way is https; one that tells nothing may have come past what ends TLS.

    >>> came_by_tls([(b"x-forwarded-proto", b"https")])
    True
    >>> came_by_tls([(b"x-forwarded-proto", b"https, http")]) or came_by_tls([])
    False
    """
    told = [value for name, value in headers if name == FORWARDED_PROTO]
    return bool(told) and all(part.strip().lower() == b"https" for value in told for part in value.split(b","))


class HttpsOnly:
    """Wrap an application; a redirect instead would let a client go on sending in clear what it has to say."""

    def __init__(self, app: AsgiApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in OPEN_PATHS or came_by_tls(scope["headers"]):
            await self._app(scope, receive, send)
        else:
            await answer(send, 403, REFUSAL)


class HttpsOnlyProtocol(Protocol):
    """One connection, whose short way is for what came by TLS; the usual way refuses the rest."""

    def _may_be_short(self) -> bool:
        return came_by_tls(self.headers) and super()._may_be_short()
