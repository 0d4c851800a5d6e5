"""Authentication against a key server over HTTP: the matrix of the Labs' intake, rotation, outages, and our own intake."""

from __future__ import annotations

import asyncio
import json
import socket
from base64 import b64encode
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.resolver import DefaultResolver

from gateway.auth.api_keys import new_key
from gateway.auth.door import Auth, Door
from gateway.auth.identity import Headers, Identity, RefusalReason, Refused
from gateway.auth.key_file import changing
from gateway.auth.key_server import DOCUMENT_BYTES_MAX
from gateway.auth.key_server import KeyServer as FetchedKeys
from gateway.auth.key_set import MISS_PAUSE_S, KeyServerError
from stack.key_server import KeyServer
from streams.metrics import GatewayMetrics
from streams.settings import load_settings
from tests.support.clock import SteppedClock
from tests.support.key_server import CLIENT, SECRET, ServedKeys, served_keys

NOW_MS = 1_704_067_200_000
NOW_S = NOW_MS // 1000
ISSUER, AUDIENCE = "https://issuer.example", "tally"


class Site:
    """A key server that runs, and the doors of a gateway that believes it."""

    def __init__(self, served: ServedKeys, **variables: str) -> None:
        self.served = served
        self.clock = SteppedClock(now_ms=NOW_MS)
        served.server._clock = self.clock
        environ = {
            "TALLY_AUTH_ANALYTICS": "on",
            "TALLY_AUTH_ANALYTICS_KEY_SET_URL": served.url,
            "TALLY_AUTH_EVENTS": "on",
            "TALLY_AUTH_EVENTS_KEY_SET_URL": served.url,
            "TALLY_AUTH_EVENTS_ISSUER": ISSUER,
            "TALLY_AUTH_EVENTS_AUDIENCE": AUDIENCE,
        }
        self.metrics = GatewayMetrics()
        self.auth = Auth(load_settings(environ | variables), self.metrics, clock=self.clock)

    def token(self, **claims: Any) -> str:
        return self.served.server.access_token(CLIENT, **claims)

    async def identity(self, token: str, door: Door | None = None) -> Identity:
        return await (door or self.auth.analytics).identify(bearer(token))


def bearer(token: str) -> Headers:
    return [(b"host", b"x"), (b"authorization", f"Bearer {token}".encode())]


async def refused(door: Door, headers: Headers) -> tuple[int, str]:
    with pytest.raises(Refused) as caught:
        await door.identify(headers)
    return caught.value.status, caught.value.detail


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with served_keys() as served:
        site = Site(served)
        yield site
        await site.auth.close()


async def test_who_the_platform_attests_is_let_in(site: Site) -> None:
    """P9: basic auth gives both tokens, the access token opens the door, the refresh token gives another one."""
    basic = {"Authorization": f"Basic {b64encode(f'{CLIENT}:{SECRET}'.encode()).decode()}"}
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{site.served.base}/attest/", headers=basic) as answer:
            tokens = await answer.json()
        assert (await site.identity(tokens["access"])).name == f"urn:pennlabs:{CLIENT}"
        assert await refused(site.auth.analytics, bearer(tokens["refresh"])) == (401, "Token has no exp")
        renew = {"Authorization": f"Bearer {tokens['refresh']}"}
        site.clock.step(60)
        async with session.post(f"{site.served.base}/refresh/", headers=renew) as answer:
            renewed = await answer.json()
        assert (await site.identity(renewed["access"])).products is None
        for headers in ({}, {"Authorization": "Basic eDp5"}, {"Authorization": "Basic \xff"}, renew):
            async with session.post(f"{site.served.base}/attest/", headers=headers) as answer:
                assert (answer.status, await answer.json()) == (401, {"detail": "Missing or invalid credentials."})
        for token in (tokens["access"], KeyServer({CLIENT: SECRET}).refresh_token(CLIENT), "x"):
            async with session.post(f"{site.served.base}/refresh/", headers={"Authorization": f"Bearer {token}"}) as answer:
                assert answer.status == 400
        async with session.post(f"{site.served.base}/rotate/", headers=basic) as answer:
            assert await answer.json() == {"kid": "key-2"}


HEADERS: list[tuple[str | None, str]] = [
    (None, "Authorization header missing"),
    ("", "Authorization header missing"),
    ("Token x", "Wrong authentication scheme"),
    ("ApiKey a_b", "Wrong authentication scheme"),
    ("Bearer", "Invalid authorization header format"),
    ("Bearer ", "Invalid authorization header format"),
    ("Token", "Invalid authorization header format"),
    ("Bearer a b", "Invalid authorization header format"),
    ("Token a b", "Invalid authorization header format"),
    ("Bearer junk", "Token format unrecognized"),
    ("Bearer a.b.c", "Token format unrecognized"),
    ("Bearer e30.e30.e30", "Algorithm not allowed"),
    (f"Bearer {'x' * 9_000}", "Invalid authorization header format"),
]


@pytest.mark.parametrize(("value", "detail"), HEADERS)
async def test_a_header_that_is_none_is_refused_in_the_words_of_the_original(
    site: Site, value: str | None, detail: str
) -> None:
    """P9, the measured matrix; none of these asks the key server."""
    headers = [] if value is None else [(b"authorization", value.encode())]
    assert await refused(site.auth.analytics, headers) == (401, detail)
    assert site.served.fetches == 0


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEaReR"])
async def test_the_scheme_is_taken_in_any_case_and_with_any_blanks(site: Site, scheme: str) -> None:
    """P9."""
    identity = await site.auth.analytics.identify([(b"authorization", f" {scheme}   {site.token()} ".encode())])
    assert identity.scheme == "jwt"


async def test_two_headers_are_one_too_many(site: Site) -> None:
    """Which one a proxy has looked at, nobody knows."""
    assert await refused(site.auth.analytics, [*bearer(site.token()), *bearer(site.token())]) == (
        401,
        "Invalid authorization header format",
    )


CLAIMS: list[tuple[dict[str, Any], int, str]] = [
    ({"exp": NOW_S - 61}, 401, f"Expired at {NOW_S - 61}, time: {NOW_S}(leeway: 60)"),
    ({"exp": None}, 401, "Token has no exp"),
    ({"use": "refresh"}, 401, "Not an access token"),
    ({"use": None}, 401, "Not an access token"),
    ({"sub": "urn:other:mobile"}, 403, "The token's subject may not write here"),
    ({"sub": "urn:pennlabs:Mobile"}, 403, "The token's subject may not write here"),
    ({"sub": None}, 403, "The token's subject may not write here"),
]


@pytest.mark.parametrize(("claims", "status", "detail"), CLAIMS)
async def test_a_token_that_is_not_good_now_or_not_for_us_is_refused(
    site: Site, claims: dict[str, Any], status: int, detail: str
) -> None:
    """P9, and what the original took: refresh tokens, tokens without an end, other organizations."""
    assert await refused(site.auth.analytics, bearer(site.token(**claims))) == (status, detail)


@pytest.mark.parametrize(
    "claims", [{"exp": NOW_S - 30}, {"exp": NOW_S - 60}, {"sub": "urn:pennlabs:*"}, {"iat": None}, {"aud": "x"}]
)
async def test_a_token_within_the_leeway_of_any_product_is_taken(site: Site, claims: dict[str, Any]) -> None:
    """P9: one that ended 30 s ago is good; the Platform names neither issuer nor audience."""
    assert (await site.identity(site.token(**claims))).may("MOBILE_BACKEND", "events.v1")


async def test_a_foreign_key_is_missing_under_whatever_name(site: Site) -> None:
    """P9: an unknown key id, a known one, and none, as the Platform itself sends."""
    foreign = KeyServer({CLIENT: SECRET}, clock=site.clock)
    assert await refused(site.auth.analytics, bearer(foreign.access_token(CLIENT))) == (401, "Missing Key")
    foreign.rotate()
    assert await refused(site.auth.analytics, bearer(foreign.access_token(CLIENT))) == (401, "Missing Key")
    foreign.names_keys = False
    assert await refused(site.auth.analytics, bearer(foreign.access_token(CLIENT))) == (401, "Missing Key")


@pytest.mark.parametrize("names_keys", [True, False])
async def test_a_new_key_is_fetched_once_by_all_who_wait_for_it(site: Site, names_keys: bool) -> None:
    """P24: rotation costs one fetch, also where tokens name no key; tokens of the key before stay good."""
    site.served.server.names_keys = names_keys
    before = site.token()
    await site.identity(before)
    site.served.server.rotate()
    tokens = [site.token(jti=str(number)) for number in range(20)]
    identities = await asyncio.gather(*(site.identity(token) for token in tokens))
    assert {identity.name for identity in identities} == {f"urn:pennlabs:{CLIENT}"}
    assert site.served.fetches == 2
    await site.identity(before)
    assert site.served.fetches == 2


async def test_an_outage_of_the_key_server_is_not_noticed_once_it_was_reached(site: Site) -> None:
    """P24: tokens of known keys are taken, new ones too; one of an unknown key cannot be judged, which is no 401."""
    first = site.token()
    await site.identity(first)
    await site.served.stop()
    await site.identity(first)
    await site.identity(site.token(jti="another"))
    site.served.server.rotate()
    site.clock.step(MISS_PAUSE_S)
    assert await refused(site.auth.analytics, bearer(site.token())) == (503, "The key server does not answer")
    assert b'tally_dependency_up{service="key_server"} 0.0' in site.metrics.text()
    await site.served.start()
    site.clock.step(MISS_PAUSE_S)
    await site.identity(site.token())
    assert b'tally_dependency_up{service="key_server"} 1.0' in site.metrics.text()


async def test_a_key_server_that_was_never_reached_is_a_503_and_then_a_200(site: Site) -> None:
    """P24: the client is told to come again, since its token may well be right; junk is junk all the same."""
    await site.served.stop()
    with pytest.raises(Refused) as caught:
        await site.identity(site.token())
    assert (caught.value.status, caught.value.retry_after_s) == (503, 1)
    assert caught.value.reason is RefusalReason.KEY_SERVER_DOWN
    assert await refused(site.auth.analytics, bearer("junk")) == (401, "Token format unrecognized")
    assert b'tally_gateway_requests_refused_total{intake="analytics",reason="key_server_down"} 1.0' in site.metrics.text()
    await site.served.start()
    site.clock.step(1)
    await site.identity(site.token())


async def test_keys_are_there_before_the_first_request(site: Site) -> None:
    """P24: they are fetched at the start, by one fetch for both intakes of one server, and a token then waits for nothing."""
    running = asyncio.create_task(site.auth.run())
    async with asyncio.timeout(10):
        while b'tally_dependency_up{service="key_server"} 1.0' not in site.metrics.text():
            await asyncio.sleep(0.01)
    await site.identity(site.token())
    assert site.served.fetches == 1
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_key_server_that_answers_nonsense_changes_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """No keys, no key set, or more bytes than any key set has: the keys known stay."""
    await site.identity(site.token())
    document = site.served.server.key_set()
    nonsense: list[Any] = [{"keys": []}, [], {"keys": document["keys"], "x": "x" * DOCUMENT_BYTES_MAX}]
    for number, answer in enumerate(nonsense):
        monkeypatch.setattr(site.served.server, "key_set", lambda answer=answer: answer)
        site.clock.step(MISS_PAUSE_S)
        unknown = KeyServer({CLIENT: SECRET}, clock=site.clock)
        unknown.rotate()
        assert (await refused(site.auth.analytics, bearer(unknown.access_token(CLIENT))))[0] == 503
        assert site.served.fetches == 2 + number
        await site.identity(site.token(jti=str(number)))


async def test_a_redirect_of_the_key_server_is_not_followed(site: Site) -> None:
    """Row 8 of the security notes: it could lead anywhere, to keys of somebody else or to what only we can reach."""
    async with served_keys() as other:
        other.server._clock = site.clock
        site.served.redirect = other.url
        assert (await refused(site.auth.analytics, bearer(other.server.access_token(CLIENT))))[0] == 503
        assert (site.served.fetches, other.fetches) == (1, 0)


async def test_a_name_that_leads_to_this_machine_is_not_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 8 of the security notes: checked when it is resolved, so that an answer of the DNS that changes changes nothing."""
    addresses = ["127.0.0.1"]

    async def resolve(self: object, host: str, port: int, family: socket.AddressFamily) -> list[dict[str, Any]]:
        named = {"hostname": host, "port": port, "family": socket.AF_INET, "proto": 0, "flags": 0}
        return [named | {"host": address} for address in addresses]

    monkeypatch.setattr(DefaultResolver, "resolve", resolve)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        port = listening.getsockname()[1]
        key_server = FetchedKeys(f"https://keys.example:{port}/jwks", setting="auth.events_key_set_url")
        try:
            for found in (["127.0.0.1"], ["::1"], ["169.254.169.254"], ["::ffff:127.0.0.1", "0.0.0.0"]):
                addresses[:] = found
                with pytest.raises(KeyServerError, match="no address but of this machine"):
                    await key_server.fetch()
        finally:
            await key_server.close()
        with pytest.raises(BlockingIOError):
            listening.accept()


async def test_our_own_intake_wants_issuer_and_audience_and_gives_a_product_its_own(site: Site) -> None:
    """Row 1 of the security notes: a token for another service of the same issuer is none for us; leeway 30 s."""
    door = site.auth.events
    assert (await refused(door, bearer(site.token())))[0] == 401
    site.served.server.claims = {"iss": ISSUER, "aud": AUDIENCE}
    assert (await site.identity(site.token(), door)).products == frozenset({CLIENT})
    assert (await site.identity(site.token(use=None), door)).name == f"urn:pennlabs:{CLIENT}"
    await site.identity(site.token(exp=NOW_S - 29), door)
    absent: tuple[dict[str, Any], ...] = tuple({name: None} for name in ("exp", "iat", "iss", "aud", "sub"))
    wrong = ({"aud": "other"}, {"iss": "other"}, {"exp": NOW_S - 31}, {"use": "refresh"}, {"iat": NOW_S - 86_500})
    for bad in (*absent, *wrong):
        assert (await refused(door, bearer(site.token(**bad))))[0] == 401
    with pytest.raises(Refused, match="403"):
        door.authorize(await site.identity(site.token(), door), "other", "events.v1")


async def test_a_revoked_key_and_a_narrowed_subject_end_while_the_gateway_runs(tmp_path: Path) -> None:
    """Row 3 of the security notes: no restart; a broken file ends nothing and lets nobody in."""
    keys, subjects = tmp_path / "keys.json", tmp_path / "subjects.json"
    shown = add_key(keys, "shop")
    subjects.write_text(json.dumps({"subjects": {"urn:pennlabs:*": {"products": ["PCR", "PCP"], "streams": None}}}))
    async with served_keys() as served:
        site = Site(served, TALLY_AUTH_KEYS_FILE=str(keys), TALLY_AUTH_SUBJECTS_FILE=str(subjects))
        running = asyncio.create_task(site.auth.run())
        try:
            assert (await site.auth.events.identify(api_key(shown))).name == "shop"
            assert (await site.identity(site.token())).products == frozenset({"PCR", "PCP"})
            with changing(keys) as stored:
                del stored[shown[:12]]
            other = add_key(keys, "other")
            subjects.write_text(json.dumps({"subjects": {"urn:pennlabs:*": {"products": ["PCR"], "streams": None}}}))
            async with asyncio.timeout(20):
                while (await site.identity(site.token())).products != frozenset({"PCR"}) or not await is_refused(site, shown):
                    await asyncio.sleep(0.05)
            assert (await site.auth.events.identify(api_key(other))).name == "other"
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await site.auth.close()


def add_key(path: Path, name: str) -> str:
    """Return a key that was added to a file."""
    stored, shown = new_key(name, created_at=datetime.fromtimestamp(NOW_S, UTC), products=None, streams=None)
    with changing(path) as keys:
        keys[stored.prefix] = stored
    return shown


def api_key(shown: str) -> Headers:
    return [(b"authorization", f"ApiKey {shown}".encode())]


async def is_refused(site: Site, shown: str) -> bool:
    try:
        await site.auth.events.identify(api_key(shown))
    except Refused:
        return True
    return False
