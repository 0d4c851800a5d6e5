"""Identify those who send `Authorization: Bearer <token>`."""

from __future__ import annotations

from gateway.auth.credentials import credentials_of, wrong_scheme
from gateway.auth.identity import Headers, Identity
from gateway.auth.subjects import Subjects
from gateway.auth.tokens import Tokens

SCHEME = "bearer"


class BearerAuthenticator:
    """Takes the tokens of one issuer."""

    def __init__(self, tokens: Tokens, subjects: Subjects) -> None:
        self._tokens = tokens
        self._subjects = subjects

    async def identify(self, headers: Headers) -> Identity:
        """Return who sent the token of a request.

        Raises:
            Refused: no token, or none that is right (401); its subject may not write here (403); the key server is down and
                its keys were never fetched (503).
        """
        scheme, token = credentials_of(headers)
        if scheme != SCHEME:
            raise wrong_scheme()
        return await self.identity_of(token)

    async def identity_of(self, token: bytes) -> Identity:
        """Return whom a token names."""
        return self._subjects.identity_of(await self._tokens.subject_of(token))
