"""Keep the public keys of a key server at hand: by key id, renewed in the background, kept while the server is down."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from math import inf
from typing import Any

import jwt

from streams.clock import SYSTEM_CLOCK, Clock
from streams.errors import TallyError

log = logging.getLogger(__name__)

KEYS_MAX = 16
"""A token that names no key is tried with each; more keys than a server needs in a rotation would only cost time."""
RENEWAL_S = 300.0
"""For so long, at most, a key counts that the server has withdrawn."""
MISS_PAUSE_S = 10.0
"""Between two fetches that tokens of unknown keys ask for: anybody can send those."""
FAILED_PAUSE_S = 1.0
"""Between two fetches while there are no keys at all."""
RETRY_S = (1.0, 10.0)
"""Bounds of the random pause after a failed fetch in the background."""
PUBLIC_KEY_TYPES = {"RSA", "EC", "OKP"}

Fetch = Callable[[], Awaitable[bytes]]
"""Asks the server for its key set; raises KeyServerError."""


class KeyServerError(TallyError):
    """The key server does not answer, or not with keys."""


def keys_of(document: bytes) -> tuple[jwt.PyJWK, ...]:
    """Return the keys for signatures of a JWK set (RFC 7517), in its order; others, secret ones too, are left out.

    Raises:
        KeyServerError: it is no key set, or has no such key.
    """
    try:
        entries = json.loads(document)["keys"]
        found = [key for entry in entries if (key := _key_of(entry)) is not None]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise KeyServerError("the answer is no key set") from None
    if not found:
        raise KeyServerError("the key set has no public key for signatures")
    if len(found) > KEYS_MAX:
        raise KeyServerError(f"the key set has more than {KEYS_MAX} keys")
    return tuple(found)


def _key_of(entry: Any) -> jwt.PyJWK | None:
    if not isinstance(entry, dict) or entry.get("kty") not in PUBLIC_KEY_TYPES or "d" in entry:
        return None
    if entry.get("use", "sig") != "sig" or not isinstance(entry.get("kid", ""), str):
        return None
    try:
        return jwt.PyJWK(entry)
    except (jwt.PyJWTError, ValueError, TypeError, AttributeError):
        return None


class KeySet:
    """The keys of one server.

    Attributes:
        version: changes with the keys, so that what one of them has proved is proved anew.
    """

    def __init__(self, fetch: Fetch, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._fetch = fetch
        self._clock = clock
        self._keys: tuple[jwt.PyJWK, ...] = ()
        self._document = b""
        self._fetching: asyncio.Task[None] | None = None
        self._tried_s = -inf
        self._missed_s = -inf
        self._broken = asyncio.Event()
        self.version = 0

    @property
    def is_fresh(self) -> bool:
        """Whether there are keys, and the last fetch did not fail."""
        return bool(self._keys) and not self._broken.is_set()

    def matching(self, kid: str | None) -> Sequence[jwt.PyJWK]:
        """Return the keys of that id; all of them where a token names none."""
        return self._keys if kid is None else [key for key in self._keys if key.key_id == kid]

    async def renew(self) -> bool:
        """Fetch the keys because a token's key is not among them, and say whether that was done.

        All that ask meanwhile wait for the same fetch; within the pause after one nothing is fetched.
        """
        if self._fetching is None and not self._may_fetch():
            return False
        await self._fetch_once()
        return True

    def _may_fetch(self) -> bool:
        """Say whether the pause is over. The very first fetch begins none: a rotation right after it is seen at once."""
        now_s = self._clock.monotonic_s()
        if not self._keys:
            if now_s - self._tried_s < FAILED_PAUSE_S:
                return False
            self._tried_s = now_s
        elif now_s - self._missed_s < MISS_PAUSE_S:
            return False
        else:
            self._missed_s = now_s
        return True

    async def run(self) -> None:
        """Renew the keys until cancelled: after `RENEWAL_S`, or soon after a fetch that failed, whoever asked for it."""
        while True:
            await self._fetch_once()
            with suppress(TimeoutError):
                async with asyncio.timeout(RENEWAL_S):
                    await self._broken.wait()
                    await asyncio.sleep(random.uniform(*RETRY_S))  # noqa: S311 - jitter

    async def close(self) -> None:
        """End a fetch that is under way."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.gather(self._fetching, return_exceptions=True)

    async def _fetch_once(self) -> None:
        if self._fetching is None:
            self._fetching = asyncio.create_task(self._take())
            self._fetching.add_done_callback(self._end)
        fetching = self._fetching
        await asyncio.wait([fetching])  # Unlike `await`, a request that is given up does not cancel it for the others.
        if not fetching.cancelled():
            fetching.result()  # raises what a bug has raised

    def _end(self, fetching: asyncio.Task[None]) -> None:
        self._fetching = None

    async def _take(self) -> None:
        try:
            document = await self._fetch()
            keys = self._keys if document == self._document else keys_of(document)
        except KeyServerError as error:
            if not self._broken.is_set():
                log.warning("the key server gives no keys, those known stay in use: %s", error, extra={"keys": len(self._keys)})
            self._broken.set()
            return
        if self._broken.is_set() or document != self._document:
            log.info("keys fetched", extra={"keys": len(keys)})
        self._broken.clear()
        if document != self._document:
            self._keys, self._document = keys, document
            self.version += 1
