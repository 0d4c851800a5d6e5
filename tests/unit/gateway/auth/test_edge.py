"""What production demands of a request, and which pages of browsers may send."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.responses import PlainTextResponse

from gateway.auth.edge import check_tls, paths_of, with_cors
from gateway.auth.identity import Refused
from streams.errors import SettingsError
from streams.settings import Gateway


@pytest.mark.parametrize("value", [b"http", b"HTTP", b" http ", b"http, https", b"", b"ws"])
def test_a_request_that_came_without_tls_is_refused(value: bytes) -> None:
    """P10: 403, since a redirect would let the client go on sending its token in clear."""
    with pytest.raises(Refused) as caught:
        check_tls([(b"host", b"x"), (b"x-forwarded-proto", value)])
    assert caught.value.status == 403


@pytest.mark.parametrize("headers", [[], [(b"x-forwarded-proto", b"https")], [(b"x-forwarded-proto", b"HTTPS, http")]])
def test_a_request_by_tls_or_of_no_proxy_passes(headers: list[tuple[bytes, bytes]]) -> None:
    """P10: behind the first proxy, which faces the client, the way may be in clear."""
    check_tls(headers)


def test_paths_have_a_version_in_production() -> None:
    """P23: and without one they answer everywhere."""
    assert paths_of("/analytics/", Gateway()) == {"/analytics", "/analytics/"}
    assert "/v1/analytics/" in paths_of("/analytics", Gateway(environment="production"))


class Browser:
    """What one does with an application behind `with_cors`."""

    def __init__(self, **named: Any) -> None:
        self._app = with_cors(answer_stored, Gateway(**named))

    async def ask(self, method: str, headers: dict[str, str]) -> tuple[int, dict[str, str]]:
        """Return status and headers of the answer."""
        start: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            start.extend([message] if message["type"] == "http.response.start" else [])

        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self._app({"type": "http", "method": method, "path": "/analytics/", "headers": raw}, receive, send)
        return start[0]["status"], {name.decode(): value.decode() for name, value in start[0]["headers"]}

    async def preflight(self, origin: str) -> tuple[int, dict[str, str]]:
        asked = {"origin": origin, "access-control-request-method": "POST", "access-control-request-headers": "authorization"}
        return await self.ask("OPTIONS", asked)


async def answer_stored(scope: Any, receive: Any, send: Any) -> None:
    await PlainTextResponse("stored")(scope, receive, send)


async def test_configured_origins_may_send_and_others_may_not() -> None:
    """P23: a preflight returns the origin, may be kept for an hour, and carries no credentials of the browser."""
    browser = Browser(cors_origins="https://a.example, https://b.example", cors_origins_pattern=r"https://\w+\.example\.org")
    for origin in ("https://a.example", "https://b.example", "https://any.example.org"):
        status, headers = await browser.preflight(origin)
        assert (status, headers["access-control-allow-origin"], headers["access-control-max-age"]) == (200, origin, "3600")
        assert "authorization" in headers["access-control-allow-headers"]
        assert "access-control-allow-credentials" not in headers
        _, headers = await browser.ask("POST", {"origin": origin})
        assert headers["access-control-allow-origin"] == origin
    for origin in ("https://c.example", "https://a.example.evil", "https://any.example.org.evil", "null"):
        assert (await browser.preflight(origin))[0] == 400
        assert "access-control-allow-origin" not in (await browser.ask("POST", {"origin": origin}))[1]


async def test_any_origin_may_be_configured_and_none_is_the_default() -> None:
    """P23: the original allowed all; ours allows none until somebody says so."""
    _, headers = await Browser(cors_origins="*").preflight("https://c.example")
    assert headers["access-control-allow-origin"] == "*"
    _, headers = await Browser().preflight("https://c.example")
    assert "access-control-allow-origin" not in headers


def test_a_pattern_that_is_none_stops_the_start() -> None:
    """At the first request it would be too late."""
    with pytest.raises(SettingsError, match="cors_origins_pattern"):
        Browser(cors_origins_pattern="(")
