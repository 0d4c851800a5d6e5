"""Issue tokens for development and tests, as the Platform of Penn Labs does: a key server for one machine.

    POST /identity/attest/    basic auth of a client -> {"access", "refresh"}
    POST /identity/refresh/   Bearer <refresh>       -> {"access"}
    GET  /identity/jwks/      the public keys
    POST /identity/rotate/    basic auth of a client: sign with a new key; the one before stays in the key set

Its keys live as long as the process. It is no identity provider for production: a client's secret is all it asks for.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode
from binascii import Error as Base64Error
from collections import deque
from collections.abc import Mapping
from hmac import compare_digest
from typing import Any

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from jwt.algorithms import RSAAlgorithm

from streams.clock import SYSTEM_CLOCK, Clock

KEY_BITS = 2_048
KEYS_SHOWN = 2
"""The key that signs and the one before it, whose tokens are still under way."""
ALGORITHM = "RS256"
ACCESS_LIFETIME_S = 3_600
CLIENT = re.compile(r"[a-z-]{1,64}")


class KeyServer:
    """Clients, keys, and the routes.

    Attributes:
        clients: secrets by client's name, which becomes the product of its subject `urn:<organization>:<name>`.
        claims: that every token carries as well, such as `iss` and `aud`.
        names_keys: tokens name their key (`kid`); those of the Platform do not.
    """

    def __init__(
        self, clients: Mapping[str, str], *, organization: str = "pennlabs", name: str = "key", clock: Clock = SYSTEM_CLOCK
    ) -> None:
        """Make the first key; the *name* of all of them is followed by a number.

        A server that is started anew has other keys, and needs another name: a gateway takes a key of a name that it knows for
        the one it knows.
        """
        self.clients = dict(clients)
        self.claims: dict[str, Any] = {}
        self.names_keys = True
        self._organization = organization
        self._name = name
        self._clock = clock
        self._keys: deque[tuple[str, RSAPrivateKey]] = deque(maxlen=KEYS_SHOWN)
        self._made = 0
        self.rotate()

    def rotate(self) -> None:
        """Sign with a new key from now on."""
        self._made += 1
        self._keys.append((f"{self._name}-{self._made}", generate_private_key(public_exponent=65_537, key_size=KEY_BITS)))

    def key_set(self) -> dict[str, Any]:
        """Return the public keys as a JWK set."""
        names = {"alg": ALGORITHM, "use": "sig"}
        keys = [RSAAlgorithm.to_jwk(key.public_key(), as_dict=True) | names | {"kid": kid} for kid, key in self._keys]
        return {"keys": keys}

    def access_token(self, client: str, **claims: Any) -> str:
        """Return an access token of a client; *claims* are added, or replace others; None leaves one out."""
        now_s = self._clock.now_ms() / 1000
        return self.signed({"use": "access", "exp": now_s + ACCESS_LIFETIME_S, "iat": now_s} | self._of(client) | claims)

    def refresh_token(self, client: str) -> str:
        """Return a refresh token of a client; it does not end."""
        return self.signed({"use": "refresh", "iat": self._clock.now_ms() / 1000} | self._of(client))

    def signed(self, claims: Mapping[str, Any]) -> str:
        """Return a token of these claims, but for those that are None."""
        kid, key = self._keys[-1]
        payload = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode(payload, key, ALGORITHM, headers={"kid": kid} if self.names_keys else None)

    def _of(self, client: str) -> dict[str, Any]:
        return {"sub": f"urn:{self._organization}:{client}"} | self.claims

    def application(self) -> web.Application:
        """Return the routes."""
        app = web.Application()
        app.add_routes(
            [
                web.post("/identity/attest/", self._attest),
                web.post("/identity/refresh/", self._refresh),
                web.get("/identity/jwks/", self._jwks),
                web.post("/identity/rotate/", self._rotate),
            ]
        )
        return app

    async def _attest(self, request: web.Request) -> web.Response:
        client = self._client_of(request)
        if client is None:
            return _refusal(401, "Missing or invalid credentials.")
        return web.json_response({"access": self.access_token(client), "refresh": self.refresh_token(client)})

    async def _refresh(self, request: web.Request) -> web.Response:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer":
            return _refusal(401, "No Bearer token present in Authorization header.")
        claims = self._verified(token)
        client = str(claims.get("sub", "")).rpartition(":")[2]
        if claims.get("use") != "refresh" or client not in self.clients:
            return _refusal(400, "Invalid JWT. Must provide a valid refresh JWT.")
        return web.json_response({"access": self.access_token(client)})

    async def _jwks(self, request: web.Request) -> web.Response:
        return web.json_response(self.key_set())

    async def _rotate(self, request: web.Request) -> web.Response:
        if self._client_of(request) is None:
            return _refusal(401, "Missing or invalid credentials.")
        self.rotate()
        return web.json_response({"kid": self._keys[-1][0]})

    def _client_of(self, request: web.Request) -> str | None:
        scheme, _, encoded = request.headers.get("Authorization", "").partition(" ")
        try:
            client, _, secret = b64decode(encoded, validate=True).decode().partition(":")
        except (Base64Error, ValueError):
            return None
        is_right = compare_digest(secret.encode(), self.clients.get(client, "").encode()) and client in self.clients
        return client if scheme == "Basic" and is_right else None

    def _verified(self, token: str) -> Mapping[str, Any]:
        """Return the claims of a token that one of our keys has signed; none of another's."""
        for _, key in self._keys:
            try:
                claims: Mapping[str, Any] = jwt.decode(
                    token, key.public_key(), [ALGORITHM], options={"verify_aud": False, "verify_exp": False}
                )
            except jwt.PyJWTError:
                continue
            return claims
        return {}


def _refusal(status: int, detail: str) -> web.Response:
    return web.Response(status=status, text=json.dumps({"detail": detail}), content_type="application/json")
