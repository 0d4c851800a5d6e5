"""Fetch the key set of a key server over HTTP: no redirect, a bounded answer, a time limit."""

from __future__ import annotations

from urllib.parse import urlsplit

import aiohttp

from gateway.auth.key_address import CheckedResolver, is_address_refused
from gateway.auth.key_set import KeyServerError
from streams.errors import SettingsError
from streams.internal import is_loopback

FETCH_TIMEOUT_S = 5.0
DOCUMENT_BYTES_MAX = 262_144


class KeyServer:
    """The server that publishes the keys of one issuer."""

    def __init__(self, url: str, *, setting: str) -> None:
        """Check the *url* that *setting* gives.

        Raises:
            SettingsError: it is neither https nor on this machine: who stands in between could name his own keys.
        """
        parts = urlsplit(url)
        host = parts.hostname or ""
        self._is_local = is_loopback(host)
        if not (parts.scheme == "https" and host) and not (parts.scheme == "http" and self._is_local):
            raise SettingsError(f"{setting} is {url!r}; right is https://…, or http:// on this machine")
        if is_address_refused(host) and not self._is_local:
            raise SettingsError(f"{setting} is {url!r}; no key server has such an address")
        self._url = url
        self._session: aiohttp.ClientSession | None = None

    async def fetch(self) -> bytes:
        """Return the document.

        Raises:
            KeyServerError: no answer in time, another status than 200, or more than `DOCUMENT_BYTES_MAX` bytes.
        """
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=FETCH_TIMEOUT_S)
            connector = aiohttp.TCPConnector(resolver=None if self._is_local else CheckedResolver())
            self._session = aiohttp.ClientSession(connector=connector, timeout=timeout, cookie_jar=aiohttp.DummyCookieJar())
        try:
            async with self._session.get(self._url, allow_redirects=False) as response:
                if response.status != 200:
                    raise KeyServerError(f"{self._url} answers {response.status}")
                return await _read(response)
        except TimeoutError as error:
            raise KeyServerError(f"{self._url} does not answer within {FETCH_TIMEOUT_S:.0f} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise KeyServerError(f"{self._url} does not answer: {type(error).__name__}") from error

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()


async def _read(response: aiohttp.ClientResponse) -> bytes:
    document = bytearray()
    async for chunk in response.content.iter_any():
        document += chunk
        if len(document) > DOCUMENT_BYTES_MAX:
            raise KeyServerError(f"the key set has more than {DOCUMENT_BYTES_MAX} bytes")
    return bytes(document)
