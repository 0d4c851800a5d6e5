"""Verify JSON web tokens: signature, algorithm and claims by PyJWT, times by the injected clock; remember those verified.

Reading and verifying a token costs 100 us (its RSA signature 20 of them), finding it in memory 4, and a producer sends one
token for an hour. What is remembered is who sent a token, under its digest; its times are looked at each time, and it counts no
longer than the keys that verified it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from math import inf, isfinite
from typing import Any

import jwt

from gateway.auth.identity import RefusalReason, Refused
from gateway.auth.key_set import FAILED_PAUSE_S, KeySet
from streams.clock import SYSTEM_CLOCK, Clock

REMEMBERED_MAX = 10_000
SUBJECT_CHARACTERS_MAX = 256
ASYMMETRIC = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Algorithms that a setting may allow: one with a shared secret would take a public key for it."""


@dataclass(frozen=True, slots=True)
class TokenRules:
    """What a token of one intake must be.

    Attributes:
        algorithms: allowed ones, of `ASYMMETRIC`.
        issuer, audience: what `iss` and `aud` must name; None: anything.
        leeway_s: by how much clocks may differ.
        age_s_max: since `iat`; infinite: any.
        needs_use: the claim `use` must be there; where it is, it must always be `access`.
        needs_subject: the claim `sub` must be there; otherwise the subject may be nobody, whom `Subjects` forbids everything.
    """

    algorithms: tuple[str, ...] = ("RS256",)
    issuer: str | None = None
    audience: str | None = None
    leeway_s: float = 30.0
    age_s_max: float = inf
    needs_use: bool = False
    needs_subject: bool = False


@dataclass(frozen=True, slots=True)
class Verified:
    """What a token with a right signature says: its subject ("": none), and when it is valid (seconds since 1970)."""

    subject: str
    from_s: float
    until_s: float
    issued_s: float
    keys_version: int


class Tokens:
    """Verifies the tokens of one intake."""

    def __init__(self, keys: KeySet, rules: TokenRules, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._keys = keys
        self._rules = rules
        self._clock = clock
        self._algorithms = list(rules.algorithms)
        self._remembered: OrderedDict[bytes, Verified] = OrderedDict()

    async def subject_of(self, token: bytes) -> str:
        """Return the subject of a token; "" where it names none.

        Raises:
            Refused: 401, it is not right, or not now; 503, the key server does not say whether it is.
        """
        digest = sha256(token).digest()
        verified = self._remembered.get(digest)
        if verified is None or verified.keys_version != self._keys.version:
            verified = await self._verify(token)
            self._remembered[digest] = verified
            if len(self._remembered) > REMEMBERED_MAX:
                self._remembered.popitem(last=False)
        self._remembered.move_to_end(digest)
        self._check_times(verified)
        return verified.subject

    async def _verify(self, token: bytes) -> Verified:
        kid = self._key_id_of(token)
        claims = self._decode(token, self._keys.matching(kid))
        # Issuers exist whose tokens name no key: then a new one is seen only by a signature of none of the known keys.
        is_unknown = claims is None and (kid is None or not self._keys.matching(kid))
        if is_unknown and await self._keys.renew():
            claims = self._decode(token, self._keys.matching(kid))
        if claims is not None:
            return self._read(claims)
        if is_unknown and not self._keys.is_fresh:
            raise Refused(503, "The key server does not answer", retry_after_s=int(FAILED_PAUSE_S))
        raise Refused(401, "Missing Key", reason=RefusalReason.UNKNOWN_KEY)

    def _key_id_of(self, token: bytes) -> str | None:
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, ValueError):
            raise _unrecognized() from None
        if header.get("alg") not in self._algorithms:
            raise Refused(401, "Algorithm not allowed")
        kid = header.get("kid")
        return kid if isinstance(kid, str) else None

    def _decode(self, token: bytes, keys: Sequence[jwt.PyJWK]) -> Mapping[str, Any] | None:
        """Return the claims of a token that one of *keys* has signed, None where none has."""
        for key in keys:
            try:
                return self._decode_by(token, key)
            except (jwt.InvalidSignatureError, jwt.InvalidAlgorithmError, jwt.InvalidKeyError):
                continue
            except jwt.InvalidAudienceError:
                raise Refused(401, "Wrong audience") from None
            except jwt.InvalidIssuerError:
                raise Refused(401, "Wrong issuer") from None
            except jwt.MissingRequiredClaimError as error:
                raise Refused(401, f"Token has no {error.claim}") from None
            except (jwt.PyJWTError, ValueError):
                raise _unrecognized() from None
        return None

    def _decode_by(self, token: bytes, key: jwt.PyJWK) -> Mapping[str, Any]:
        rules = self._rules
        claims: Mapping[str, Any] = jwt.decode(
            token,
            key,
            algorithms=self._algorithms,
            audience=rules.audience,
            issuer=rules.issuer,
            options={
                "require": ["exp"],
                "verify_aud": rules.audience is not None,
                "verify_iss": rules.issuer is not None,
                # By our clock, and for remembered tokens too: `_check_times`.
                "verify_exp": False,
                "verify_nbf": False,
                "verify_iat": False,
                "enforce_minimum_key_length": True,
            },
        )
        return claims

    def _read(self, claims: Mapping[str, Any]) -> Verified:
        use = claims.get("use", None if self._rules.needs_use else "access")
        if use != "access":
            raise Refused(401, "Not an access token")
        subject = claims.get("sub") or ""
        if not isinstance(subject, str) or len(subject) > SUBJECT_CHARACTERS_MAX:
            raise _unrecognized()
        if self._rules.needs_subject and not subject:
            raise Refused(401, "Token has no sub")
        if isfinite(self._rules.age_s_max) and "iat" not in claims:
            raise Refused(401, "Token has no iat")
        issued_s = _seconds(claims, "iat", -inf)
        from_s = max(_seconds(claims, "nbf", -inf), issued_s)
        return Verified(subject, from_s, _seconds(claims, "exp", -inf), issued_s, self._keys.version)

    def _check_times(self, token: Verified) -> None:
        now_s = self._clock.now_ms() / 1000
        leeway_s = self._rules.leeway_s
        told = f"time: {int(now_s)}(leeway: {int(leeway_s)})"
        if token.until_s < now_s - leeway_s:
            raise Refused(401, f"Expired at {int(token.until_s)}, {told}", reason=RefusalReason.EXPIRED)
        if token.from_s > now_s + leeway_s:
            raise Refused(401, f"Valid from {int(token.from_s)}, {told}")
        if now_s - token.issued_s > self._rules.age_s_max + leeway_s:
            raise Refused(401, f"Issued at {int(token.issued_s)}, too long ago", reason=RefusalReason.EXPIRED)


def _seconds(claims: Mapping[str, Any], name: str, default: float) -> float:
    """Return an instant of the claims, seconds since 1970."""
    value = claims.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _unrecognized()
    try:
        seconds = float(value)
    except OverflowError:
        raise _unrecognized() from None
    if name in claims and not isfinite(seconds):
        raise _unrecognized()
    return seconds


def _unrecognized() -> Refused:
    return Refused(401, "Token format unrecognized")
