"""Keep pages between our own processes to them: a token that all have from their settings, in a header that nobody logs."""

from __future__ import annotations

from collections.abc import Mapping
from hmac import compare_digest
from ipaddress import ip_address

from streams.errors import SettingsError
from streams.settings import Settings, Web

PREFIX = "/internal/"
HEADER = "Authorization"


def token_headers(web: Web) -> dict[str, str]:
    """Return the headers of a request to one of our own processes."""
    return {HEADER: f"Bearer {web.token}"} if web.token else {}


def is_allowed(web: Web, headers: Mapping[str, str]) -> bool:
    """Say whether a request comes from one of our own processes; without a token everybody on this machine is."""
    given = headers.get(HEADER, "").encode(errors="surrogateescape")  # bytes of whatever encoding, as aiohttp has read them
    return not web.token or compare_digest(given, f"Bearer {web.token}".encode())


def is_loopback(host: str) -> bool:
    """Say whether an address is reached from this machine only.

    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, True, False)
    """
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def check_token(settings: Settings) -> None:
    """Return when a worker's internal pages are not open to others.

    Raises:
        SettingsError: it listens for other machines, and there is no token.
    """
    web = settings.web
    if not web.token and not is_loopback(web.host):
        raise SettingsError(
            f"web.host is {web.host!r}, which other machines reach, and web.token is empty: "
            "set TALLY_WEB_TOKEN, or TALLY_WEB_TOKEN_FILE, to the same secret for every worker, gateway and command"
        )
