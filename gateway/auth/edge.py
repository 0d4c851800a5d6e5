"""Say what differs by environment: in production no request without TLS and no documents, `/v1` before every path; and CORS."""

from __future__ import annotations

import re

from starlette.middleware.cors import CORSMiddleware

from gateway.auth.identity import Headers, RefusalReason, Refused
from gateway.request_log import AsgiApp
from streams.errors import SettingsError
from streams.settings import Gateway

FORWARDED_PROTO = b"x-forwarded-proto"
PREFLIGHT_S = 3_600
"""How long a browser may keep the answer to a preflight."""
CORS_METHODS = ("GET", "POST")
CORS_HEADERS = (
    "authorization",
    "content-encoding",
    "content-type",
    "idempotency-key",
    "x-attempt",
    "x-request-id",
    "x-sdk",
    "x-sent-at",
    "x-session-id",
)
CORS_EXPOSED = ("retry-after", "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset", "x-request-id")
VERSION_PREFIX = "/v1"


def is_production(gateway: Gateway) -> bool:
    """Say whether others than developers use this gateway."""
    return gateway.environment == "production"


def check_tls(headers: Headers) -> None:
    """Return when a request came by TLS, as what ends TLS in front of us tells; who tells nothing is believed.

    Of several proxies the first one counts, which faced the client.

    Raises:
        Refused: 403. A redirect would hide from the client that it has sent its credentials in clear.

    >>> check_tls([(b"x-forwarded-proto", b"https, http")])
    """
    for name, value in headers:
        if name == FORWARDED_PROTO:
            if value.partition(b",")[0].strip().lower() != b"https":
                raise Refused(403, "Use https", reason=RefusalReason.NO_TLS)
            return


def paths_of(path: str, gateway: Gateway) -> frozenset[str]:
    """Return under which paths a route answers that clients know without a version: in production under `/v1` too.

    >>> sorted(paths_of("/analytics/", Gateway(environment="production")))
    ['/analytics', '/analytics/', '/v1/analytics', '/v1/analytics/']
    """
    plain = path.rstrip("/")
    prefixes = ("", VERSION_PREFIX) if is_production(gateway) else ("",)
    return frozenset(f"{prefix}{plain}{end}" for prefix in prefixes for end in ("", "/"))


def with_cors(app: AsgiApp, gateway: Gateway) -> AsgiApp:
    """Return *app* so that pages of the configured origins may use it; itself where none is configured.

    Raises:
        SettingsError: the pattern of origins is no regular expression.
    """
    origins = [origin.strip() for origin in gateway.cors_origins.split(",") if origin.strip()]
    if not origins and not gateway.cors_origins_pattern:
        return app
    try:
        re.compile(gateway.cors_origins_pattern)
    except re.error as error:
        raise SettingsError(f"gateway.cors_origins_pattern is {gateway.cors_origins_pattern!r}: {error}") from error
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_origin_regex=gateway.cors_origins_pattern or None,
        allow_methods=CORS_METHODS,
        allow_headers=CORS_HEADERS,
        expose_headers=CORS_EXPOSED,
        max_age=PREFLIGHT_S,
    )
