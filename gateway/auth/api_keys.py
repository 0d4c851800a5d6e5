"""Identify machines by API keys: `Authorization: ApiKey <prefix>_<secret>`.

A key is shown once, when it is made; its file holds the SHA-256 of its secret. 32 random bytes need no slow digest: nobody
guesses them.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from hmac import compare_digest
from math import inf
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec

from gateway.auth.identity import Identity, Quota, RefusalReason, Refused
from gateway.auth.subjects import Rate
from gateway.auth.watched_file import BadDocumentError, read_document
from streams.clock import SYSTEM_CLOCK, Clock

SCHEME = "apikey"
SECRET_BYTES = 32
PREFIX_BYTES = 6
NO_DIGEST = "0" * 64
KEYS_MAX = 100_000

Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._:-]{1,64}$")]


class StoredKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One key, as its file has it.

    Attributes:
        prefix: names the key; its own first part.
        name: of who has it, and so the source of its events. Several keys may have one name: the old and the new.
        sha256: of the secret, hexadecimal.
        products, streams: that it may write; null: all, which is never meant by leaving it out.
        expires_at: from then on refused; None: never.
        events_per_s, bytes_per_s: its quota, 0: no limit, None: that of the settings.
    """

    prefix: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{12}$")]
    name: Name
    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
    created_at: Annotated[datetime, msgspec.Meta(tz=True)]
    products: list[str] | None
    streams: list[str] | None
    expires_at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    events_per_s: Rate | None = None
    bytes_per_s: Rate | None = None


class KeysDocument(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file of keys."""

    keys: Annotated[list[StoredKey], msgspec.Meta(max_length=KEYS_MAX)]


def read_keys(path: Path) -> Mapping[str, StoredKey]:
    """Return the keys of a file, by prefix.

    Raises:
        BadDocumentError: it cannot be read, is no such file, or names a prefix twice.
    """
    keys = read_document(path, KeysDocument).keys
    by_prefix = {key.prefix: key for key in keys}
    if len(by_prefix) < len(keys):
        raise BadDocumentError("a prefix is there twice")
    return by_prefix


def new_key(
    name: str, *, created_at: datetime, products: Sequence[str] | None, streams: Sequence[str] | None
) -> tuple[StoredKey, str]:
    """Return a new key as it is stored, and as it is shown, once."""
    prefix, secret = secrets.token_hex(PREFIX_BYTES), secrets.token_urlsafe(SECRET_BYTES)
    stored = StoredKey(
        prefix=prefix,
        name=name,
        sha256=_digest(secret.encode()),
        created_at=created_at,
        products=None if products is None else list(products),
        streams=None if streams is None else list(streams),
    )
    return stored, f"{prefix}_{secret}"


class _Known(NamedTuple):
    """A key, ready to be compared."""

    sha256: str
    expires_at_ms: float
    identity: Identity


class ApiKeyAuthenticator:
    """Takes the keys of a file."""

    def __init__(self, keys: Mapping[str, StoredKey], *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self.use(keys)

    def use(self, keys: Mapping[str, StoredKey]) -> None:
        """Take these *keys* (by prefix) from now on, and no others."""
        self._known = {prefix: _known(key) for prefix, key in keys.items()}

    def identity_of(self, key: bytes) -> Identity:
        """Return whose *key* this is.

        Raises:
            Refused: 401; none that is right now. Which part of a wrong one is wrong is told neither by words nor by time.
        """
        prefix, _, secret = key.partition(b"_")
        known = self._known.get(prefix.decode("latin-1"))
        is_right = compare_digest(_digest(secret), NO_DIGEST if known is None else known.sha256)
        if known is None or not is_right:
            raise Refused(401, "Unknown API key", reason=RefusalReason.UNKNOWN_KEY)
        if known.expires_at_ms <= self._clock.now_ms():
            raise Refused(401, "The API key has expired", reason=RefusalReason.EXPIRED)
        return known.identity


def _known(key: StoredKey) -> _Known:
    products = None if key.products is None else frozenset(key.products)
    streams = None if key.streams is None else frozenset(key.streams)
    identity = Identity(key.name, products, streams, "api_key", Quota(key.events_per_s, key.bytes_per_s))
    return _Known(key.sha256, inf if key.expires_at is None else key.expires_at.timestamp() * 1000, identity)


def _digest(secret: bytes) -> str:
    return sha256(secret).hexdigest()
