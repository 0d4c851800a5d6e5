"""Keep requests for keys from addresses where no key server is: of this machine, of this network segment, of nobody.

A name is checked when it is resolved, and what was checked is what is connected to: an answer of the DNS that changes in
between changes nothing. Private addresses are taken, since the issuer of a cluster has one; its certificate proves who it is.
"""

from __future__ import annotations

import socket
from ipaddress import ip_address

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import DefaultResolver

from gateway.auth.key_set import KeyServerError


def may_be_asked(address: str) -> bool:
    """Say whether a key server of another machine may have this address.

    >>> [may_be_asked(each) for each in ("93.184.216.34", "10.0.0.1", "64:ff9b::5db8:d822")]
    [True, True, True]
    >>> [may_be_asked(each) for each in ("127.0.0.1", "::1", "::ffff:127.0.0.1", "169.254.169.254", "0.0.0.0")]
    [False, False, False, False, False]
    """
    found = ip_address(address)
    found = getattr(found, "ipv4_mapped", None) or found
    return not (found.is_loopback or found.is_link_local or found.is_multicast or found.is_unspecified)


def is_address_refused(host: str) -> bool:
    """Say whether the host of a URL is such an address itself; a name is not known before it is resolved."""
    try:
        return not may_be_asked(host)
    except ValueError:
        return False


class CheckedResolver(AbstractResolver):
    """Resolves names as the system does, and leaves out addresses that may not be asked."""

    def __init__(self) -> None:
        self._inner = DefaultResolver()

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:
        """Return the addresses of a host that may be asked.

        Raises:
            KeyServerError: it has none.
            OSError: it has no address at all.
        """
        found = [each for each in await self._inner.resolve(host, port, family) if may_be_asked(each["host"])]
        if not found:
            raise KeyServerError(f"{host} has no address but of this machine or this network segment")
        return found

    async def close(self) -> None:
        """Close what resolves."""
        await self._inner.close()
