"""Say who asks: an identity, the ways to be refused one, and what every authenticator is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, Protocol

from streams.errors import TallyError

Headers = Sequence[tuple[bytes, bytes]]
"""Of a request, as ASGI gives them: names in lower case."""


class RefusalReason(StrEnum):
    """Why a request is not let through; the closed set of `tally_gateway_requests_refused_total`."""

    NO_CREDENTIALS = "no_credentials"
    BAD_CREDENTIALS = "bad_credentials"
    EXPIRED = "expired"
    UNKNOWN_KEY = "unknown_key"
    FORBIDDEN = "forbidden"
    QUOTA = "quota"
    KEY_SERVER_DOWN = "key_server_down"
    AUTH_OFF = "auth_off"
    NO_TLS = "no_tls"


USUAL_REASONS = {
    401: RefusalReason.BAD_CREDENTIALS,
    403: RefusalReason.FORBIDDEN,
    429: RefusalReason.QUOTA,
    503: RefusalReason.KEY_SERVER_DOWN,
}


class Refused(TallyError):  # noqa: N818 - what happened to the request, and no failure of ours
    """A request is not let through.

    Attributes:
        status: 401, 403, 429 or 503.
        detail: for the client; neither payload nor secret.
        retry_after_s: for `Retry-After`, where coming again helps.
        reason: code of the closed set, for metrics and for programs.
        headers: of the answer, beside those that `gateway.auth.refusals` makes of the others.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        retry_after_s: int | None = None,
        *,
        reason: RefusalReason | None = None,
        headers: Headers = (),
    ) -> None:
        super().__init__(f"{status}: {detail}")
        self.status = status
        self.detail = detail
        self.retry_after_s = retry_after_s
        self.reason = reason or USUAL_REASONS[status]
        self.headers = headers


@dataclass(frozen=True, slots=True)
class Quota:
    """What one identity may send a second, and as much at once; 0: without limit, None: what the settings say.

    Attributes:
        events_per_s: events, or datapoints of transactions.
        bytes_per_s: of bodies as they came.
    """

    events_per_s: float | None = None
    bytes_per_s: float | None = None


@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks, and what it may write.

    Attributes:
        name: the API key's name or the token's `sub`; becomes the `source` of its events.
        products: it may write for; None: for all.
        streams: it may write to, by the topic's name; None: to all.
        scheme: how it was found.
        quota: its own; None: that of the settings.
    """

    name: str
    products: frozenset[str] | None
    streams: frozenset[str] | None
    scheme: Literal["none", "jwt", "api_key"]
    quota: Quota | None = None

    def may(self, product: str, stream: str) -> bool:
        """Say whether it may write events of *product* to *stream*."""
        return (self.products is None or product in self.products) and (self.streams is None or stream in self.streams)


NOBODY = Identity("", None, None, "none")
"""Who asks where authentication is off: anybody, for anything."""


class Authenticator(Protocol):
    """Finds out who asks."""

    async def identify(self, headers: Headers) -> Identity:
        """Return who sent a request with these *headers*; waits for a key server at most, and seldom.

        Raises:
            Refused: it has no credentials, wrong ones, or they cannot be checked now.
        """
        ...


class NoAuth:
    """Takes everybody: authentication is off."""

    async def identify(self, headers: Headers) -> Identity:
        """Return the identity of nobody, who may do everything."""
        return NOBODY
