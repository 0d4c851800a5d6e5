"""Credentials: a key, a token, or tokens of a Platform that are renewed before they expire."""

from __future__ import annotations

import base64
import binascii
import json
import threading
from collections.abc import Callable, Generator
from typing import Any, NamedTuple, Protocol

from tally_client.clock import SYSTEM_CLOCK, Clock
from tally_client.errors import CredentialsError, TransportError
from tally_client.transport import Answer, absolute, target_of

RENEW_BEFORE_S = 30.0
"""A token is renewed this long before it expires (Labs, P16); one that lives no longer than that, at half of its life."""
USED_S_MIN = 1.0
"""How long a new token is used in any case: servers have leeway, and without a token everything would be refused."""
LIFETIME_UNKNOWN_S = 60.0
"""How long a token is used that does not say when it expires."""
ATTEST_PATH = "/identity/attest/"
REFRESH_PATH = "/identity/refresh/"


class TokenRequest(NamedTuple):
    """A POST without a body to a token service."""

    url: str
    headers: dict[str, str]


class Credentials(Protocol):
    """What gives requests their `Authorization`; pure but for the requests it asks others to make."""

    def header(self) -> str | None:
        """Return the value of the header, or None where `renew` must be run first."""
        ...

    def renew(self) -> Generator[TokenRequest, Answer, None]:
        """Yield the requests that get a new token, and take their answers.

        Raises:
            CredentialsError: the service refuses for good.
            TransportError: the service cannot answer now.
        """
        ...

    def refuse(self) -> None:
        """Hear that the server took what `header` returned for invalid (401)."""
        ...


class Given:
    """Credentials that never change.

    Args:
        value: of the header, scheme included.
    """

    def __init__(self, value: str) -> None:
        if not value.isprintable() or not value.isascii():
            raise ValueError("a key or token is printable ASCII")
        self._value = value

    def header(self) -> str | None:
        """See `Credentials.header`."""
        return self._value

    def renew(self) -> Generator[TokenRequest, Answer, None]:
        """See `Credentials.renew`; there is nothing to renew."""
        yield from ()

    def refuse(self) -> None:
        """See `Credentials.refuse`; a given key stays what it is."""


def api_key(key: str) -> Given:
    """Return the credentials of a machine: `Authorization: ApiKey …`."""
    return Given(f"ApiKey {key}")


def bearer(token: str) -> Given:
    """Return the credentials of a token that somebody else renews: `Authorization: Bearer …`."""
    return Given(f"Bearer {token}")


class PlatformTokens:
    """Tokens of a Platform: attested by a client's id and secret, then refreshed 30 s before they expire.

    Args:
        url: of the Platform.
        client_id: of the product.
        client_secret: of the product; sent to the Platform only, by basic authentication.
        clock: lifetimes are measured on its `elapsed_s`, so that a wrong or jumping wall clock does not matter where
            the token says when it was issued.
    """

    def __init__(self, url: str, client_id: str, client_secret: str, *, clock: Clock = SYSTEM_CLOCK) -> None:
        target_of(url)
        self._url = url
        self._basic = base64.b64encode(f"{client_id}:{client_secret}".encode()).decode("ascii")
        self._clock = clock
        self._access: str | None = None
        self._refresh: str | None = None
        self._renew_at_s = 0.0

    def header(self) -> str | None:
        """See `Credentials.header`."""
        if self._access is None or self._clock.elapsed_s() >= self._renew_at_s:
            return None
        return f"Bearer {self._access}"

    def refuse(self) -> None:
        """See `Credentials.refuse`: the next request attests anew."""
        self._access = self._refresh = None

    def renew(self) -> Generator[TokenRequest, Answer, None]:
        """See `Credentials.renew`: refresh where there is a refresh token that is still taken, else attest."""
        if self._refresh is not None:
            answer = yield TokenRequest(absolute(self._url, REFRESH_PATH), {"Authorization": f"Bearer {self._refresh}"})
            if answer.status == 200:
                self._take(answer)
                return
            self._refresh = None
            if answer.status >= 500 or answer.status == 429:
                raise TransportError(f"the token service answered {answer.status}")
        answer = yield TokenRequest(absolute(self._url, ATTEST_PATH), {"Authorization": f"Basic {self._basic}"})
        if answer.status == 200:
            self._take(answer)
        elif answer.status in (400, 401, 403):
            raise CredentialsError(f"the token service answered {answer.status}: are id and secret right?")
        else:
            raise TransportError(f"the token service answered {answer.status}")

    def _take(self, answer: Answer) -> None:
        try:
            tokens: Any = json.loads(answer.body)
            access = str(tokens["access"])
            Given(access)  # ValueError where it cannot stand in a header
            self._refresh = str(tokens.get("refresh") or self._refresh or "") or None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise TransportError("the token service's answer holds no token") from error
        self._access = access
        self._renew_at_s = self._clock.elapsed_s() + used_s(lifetime_s(access, wall_s=self._clock.wall_s()))


def lifetime_s(token: str, *, wall_s: float) -> float:
    """Return for how long (s) a JWT that was just issued is valid, by what it says itself; its signature is not checked.

    Where it says when it was issued, that is trusted more than *wall_s*, the own clock.
    """
    try:
        payload = token.split(".")[1]
        claims: Any = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return max(0.0, float(claims["exp"]) - float(claims.get("iat", wall_s)))
    except (IndexError, KeyError, ValueError, TypeError, AttributeError, binascii.Error):
        return LIFETIME_UNKNOWN_S


def used_s(lifetime_s: float) -> float:
    """Return for how long (s) a new token is used before it is renewed.

    >>> [used_s(lifetime_s) for lifetime_s in (3600, 31, 30, 1, 0)]
    [3570.0, 1.0, 15.0, 1.0, 1.0]
    """
    return max(USED_S_MIN, lifetime_s - RENEW_BEFORE_S if lifetime_s > RENEW_BEFORE_S else lifetime_s / 2)


def authorization(value: str | None) -> dict[str, str]:
    """Return the header of credentials that have just been looked at, and renewed where it was time.

    Raises:
        TransportError: there is none. To ask without would be answered 401, and that is final for the events of the request.
    """
    if value is None:
        raise TransportError("the token service gave no token that is still good")
    return {"Authorization": value}


def replaced(credentials: Credentials, refused: str | None) -> bool:
    """Let go of a header that the server answered 401 to; return whether there is, or can be, another one.

    Another request may have been told the same before, and have renewed it: the new one is kept.
    """
    if credentials.header() == refused:
        credentials.refuse()
    return credentials.header() != refused


class SharedCredentials:
    """Credentials for several threads: one renews, the others wait for it and take what it got.

    Args:
        credentials: whose; None sends no header.
        post: makes a request of the token service, for example `transport.post`.
    """

    def __init__(self, credentials: Credentials | None, post: Callable[[str, bytes, dict[str, str]], Answer]) -> None:
        self._credentials = credentials
        self._post = post
        self.forget()

    def forget(self) -> None:
        """Take a new lock: after a fork another thread's would stay closed for ever."""
        self._lock = threading.Lock()

    def headers(self) -> dict[str, str]:
        """Return the headers that prove who asks, after renewing them where it is time.

        Raises:
            CredentialsError: the token service refuses for good.
            TransportError: the token service cannot answer now.
        """
        if self._credentials is None:
            return {}
        with self._lock:
            value = self._credentials.header()
            if value is None:
                self._renew(self._credentials)
                value = self._credentials.header()
        return authorization(value)

    def replace(self, refused: str | None) -> bool:
        """Hear that the server answered 401 to this header; return whether there is, or can be, another one."""
        if self._credentials is None:
            return False
        with self._lock:
            return replaced(self._credentials, refused)

    def _renew(self, credentials: Credentials) -> None:
        steps = credentials.renew()
        try:
            request = next(steps)
            while True:
                request = steps.send(self._post(request.url, b"", request.headers))
        except StopIteration:
            return
