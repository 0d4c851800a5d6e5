"""Labs' intake as in production, over HTTP: the words of its refusals, and what differs from development."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from stack.key_server import KeyServer
from streams.clock import SYSTEM_CLOCK
from streams.topics import EVENTS
from tests.support.analytics_door import DECODE, body_of
from tests.support.gateway_process import Gateway, a_client, end_offsets, eventually, records_since, running_gateway
from tests.support.key_server import CLIENT, SECRET, KeysInAThread, keys_in_a_thread

STORED = {"message": "Data stored successfully!"}
ORIGIN = "https://pennlabs.example"


@dataclass
class Site:
    """A gateway in production, the key server that it believes, and a client."""

    gateway: Gateway
    keys: KeysInAThread
    client: aiohttp.ClientSession

    async def post(self, authorization: str | None = None, path: str = "/analytics/", **headers: str) -> tuple[int, Any]:
        """Post a transaction; return status and decoded answer. Redirects are not followed."""
        sent = {"X-Forwarded-Proto": "https"} | {name.replace("_", "-"): value for name, value in headers.items()}
        if authorization is not None:
            sent["Authorization"] = authorization
        url = self.gateway.url(path)
        async with self.client.post(url, data=body_of(), headers=sent, allow_redirects=False) as response:
            return response.status, await response.json()

    async def answers(self, status: int, authorization: str) -> None:
        """Wait until a transaction is answered so."""

        async def does() -> bool:
            try:
                return (await self.post(authorization))[0] == status
            except aiohttp.ClientError:
                return False

        await eventually(does)

    def bearer(self, **claims: Any) -> str:
        """Return what shows an access token with these claims."""
        return f"Bearer {self.keys.served.server.access_token(CLIENT, **claims)}"


@contextmanager
def in_production(servers: str, keys: KeysInAThread) -> Iterator[Gateway]:
    """Run a gateway as production does, but for TLS, which ends in front of it."""
    named = {"gateway_environment": "production", "gateway_cors_origins": ORIGIN}
    named |= {"auth_analytics": "on", "auth_analytics_key_set_url": keys.served.url}
    with running_gateway(servers, **named) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def keys() -> Iterator[KeysInAThread]:
    """A key server that listens."""
    with keys_in_a_thread() as running:
        yield running


@pytest.fixture(scope="module")
def gateway(kafka_servers: str, topic: str, keys: KeysInAThread) -> Iterator[Gateway]:
    """One gateway for the tests that leave it as it was."""
    with in_production(kafka_servers, keys) as process:
        yield process


@pytest.fixture
async def site(gateway: Gateway, keys: KeysInAThread) -> AsyncIterator[Site]:
    """Everything, and transactions are taken by now."""
    async with a_client() as client:
        made = Site(gateway, keys, client)
        await made.answers(200, made.bearer())
        yield made


async def test_tokens_decide_who_may(site: Site, kafka_servers: str) -> None:
    """P9: the matrix in the words of the original, and what it took by mistake; what is stored names its subject."""
    start = end_offsets(kafka_servers, EVENTS.topic)
    now_s = int(SYSTEM_CLOCK.now_ms() / 1000)
    foreign = KeyServer({CLIENT: SECRET})
    foreign.rotate()
    refused: list[tuple[str | None, int, str]] = [
        (None, 401, "Authorization header missing"),
        ("Token x", 401, "Wrong authentication scheme"),
        ("Bearer", 401, "Invalid authorization header format"),
        ("Bearer a b", 401, "Invalid authorization header format"),
        ("Bearer junk", 401, "Token format unrecognized"),
        (site.bearer(exp=now_s - 90), 401, f"Expired at {now_s - 90}, "),
        (f"Bearer {foreign.access_token(CLIENT)}", 401, "Missing Key"),
        (f"Bearer {site.keys.served.server.refresh_token(CLIENT)}", 401, "Token has no exp"),
        (site.bearer(use="refresh"), 401, "Not an access token"),
        (site.bearer(exp=None), 401, "Token has no exp"),
        (site.bearer(sub="urn:other:courses"), 403, "The token's subject may not write here"),
    ]
    for authorization, status, detail in refused:
        answered = await site.post(authorization)
        assert answered[0] == status, (authorization, answered)
        assert answered[1]["detail"].startswith(detail)
    assert end_offsets(kafka_servers, EVENTS.topic) == start
    for taken in (site.bearer(), site.bearer().replace("Bearer", "bEARER"), site.bearer(exp=now_s - 30)):
        assert await site.post(taken) == (200, STORED)
    events = [DECODE(value or b"")[0] for _, _, value in records_since(kafka_servers, start)]
    assert [event.source for event in events] == [f"urn:pennlabs:{CLIENT}"] * 3


async def test_key_server_that_never_answered_is_a_503(kafka_servers: str, topic: str) -> None:
    """P24: the token may well be right, so that the client is to come again; then it is stored."""
    with keys_in_a_thread() as keys:
        keys.stop()
        with in_production(kafka_servers, keys) as gateway:
            async with a_client() as client:
                site = Site(gateway, keys, client)
                await site.answers(503, site.bearer())
                assert await site.post(site.bearer()) == (503, {"detail": "The key server does not answer"})
                keys.start()
                await site.answers(200, site.bearer())


async def test_production_wants_tls_shows_no_documents_and_has_a_version(site: Site) -> None:
    """P10, P23: what came in clear is 403 and not redirected; and pages of the configured origins may send."""
    bearer = site.bearer()
    assert (await site.post(bearer, X_Forwarded_Proto="http"))[0] == 403
    for path in ("/analytics", "/analytics/", "/v1/analytics", "/v1/analytics/"):
        assert await site.post(bearer, path) == (200, STORED)
    async with site.client.get(site.gateway.url("/openapi.json")) as response:
        assert response.status == 404
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    for origin, allowed in ((ORIGIN, ORIGIN), ("https://other.example", None)):
        async with site.client.options(site.gateway.url("/v1/analytics/"), headers=asked | {"Origin": origin}) as response:
            assert response.headers.get("Access-Control-Allow-Origin") == allowed
