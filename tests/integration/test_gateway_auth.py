"""Authentication through a gateway process into a real Kafka: who is refused has left nothing in the topic."""

from __future__ import annotations

import json
import re
import tempfile
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from hmac import digest
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.analytics_txn import Product
from gateway.auth.__main__ import main
from stack.key_server import KeyServer
from streams.clock import SYSTEM_CLOCK
from streams.codecs import Codec
from streams.event_time import format_instant
from streams.topics import EVENTS
from tests.support.analytics_door import body_of
from tests.support.events_door import a_batch, an_event
from tests.support.gateway_process import Gateway, a_client, end_offsets, eventually, records_since, running_gateway
from tests.support.key_server import CLIENT, SECRET, KeysInAThread, keys_in_a_thread

AUDIENCE, ISSUER = "tally", "https://issuer.example"
SUBJECT = f"urn:pennlabs:{CLIENT}"
OWN, FOREIGN = Product.MOBILE_BACKEND, Product.CLUBS
DECODE = Codec(EVENTS).decode
QUOTA_EVENTS_S = 20
OF_THE_LABS = ("none", "junk", "unsigned", "public key", "foreign key", "refresh", "expired", "no end")
"""Wrong for the Platform's tokens too, which name neither issuer nor audience."""


@dataclass(frozen=True)
class Site:
    """A gateway with authentication on, and whom it believes."""

    gateway: Gateway
    keys: KeysInAThread
    keys_file: Path

    @property
    def server(self) -> KeyServer:
        return self.keys.served.server

    def bearer(self, **claims: Any) -> str:
        return f"Bearer {self.server.access_token(CLIENT, **claims)}"


@dataclass(frozen=True)
class Answered:
    """An answer: status, decoded body, headers."""

    status: int
    body: Any
    headers: Any


@pytest.fixture(scope="module")
def site(kafka_servers: str, topic: str) -> Iterator[Site]:
    """One gateway for all; its subject may write for one product."""
    folder = Path(tempfile.mkdtemp(prefix="tally-auth-"))
    subjects = folder / "subjects.json"
    subjects.write_text(json.dumps({"subjects": {"urn:pennlabs:*": {"products": [OWN.name], "streams": [EVENTS.topic]}}}))
    with keys_in_a_thread() as keys:
        keys.served.server.claims = {"iss": ISSUER, "aud": AUDIENCE}
        settings = {
            "auth_events": "on",
            "auth_events_key_set_url": keys.served.url,
            "auth_events_issuer": ISSUER,
            "auth_events_audience": AUDIENCE,
            "auth_keys_file": str(folder / "keys.json"),
            "auth_analytics": "on",
            "auth_analytics_key_set_url": keys.served.url,
            "auth_subjects_file": str(subjects),
        }
        with running_gateway(kafka_servers, **settings) as gateway:
            yield Site(gateway, keys, folder / "keys.json")


@pytest.fixture
async def client(site: Site) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of the gateway, which takes events by now."""
    async with a_client() as session:
        await eventually(takes(session, site, site.bearer()))
        yield session


@pytest.fixture
def written(kafka_servers: str, topic: str) -> Callable[[], list[Any]]:
    """What was written to the topic of events since the test began, but for probes."""
    start = end_offsets(kafka_servers, EVENTS.topic)

    def since() -> list[Any]:
        events = [DECODE(value)[0] for _, _, value in records_since(kafka_servers, start)]
        return [event for event in events if event.user != "probe"]

    return since


async def send(
    client: aiohttp.ClientSession, site: Site, credentials: str | None, *events: dict[str, Any], path: str = "/v1/events"
) -> Answered:
    """Post events with these credentials."""
    return await post(client, site, credentials, a_batch(*events), path)


async def post(client: aiohttp.ClientSession, site: Site, credentials: str | None, body: bytes, path: str) -> Answered:
    headers = {"Content-Type": "application/json"} | ({} if credentials is None else {"Authorization": credentials})
    async with client.post(site.gateway.url(path), data=body, headers=headers) as response:
        return Answered(response.status, await response.json(), response.headers)


def event_of(user: str = "anna", **changes: Any) -> dict[str, Any]:
    """Return a valid event of now."""
    return an_event(**{"time": format_instant(SYSTEM_CLOCK.now_ms()), "user_id": user, **changes})


def takes(
    client: aiohttp.ClientSession, site: Site, credentials: str, status: int = 200, **changes: Any
) -> Callable[[], Awaitable[bool]]:
    """Return a condition: these credentials are answered *status*."""

    async def asks() -> bool:
        try:
            return (await send(client, site, credentials, event_of("probe", **changes))).status == status
        except aiohttp.ClientError:
            return False

    return asks


def unsigned(server: KeyServer) -> str:
    """Return a token that says of itself that it is not signed."""
    _, claims, _ = server.access_token(CLIENT).split(".")
    return f"{segment({'alg': 'none', 'typ': 'JWT'})}.{claims}."


def signed_with_the_public_key(server: KeyServer) -> str:
    """Return a token whose shared secret is what everybody can read."""
    _, claims, _ = server.access_token(CLIENT).split(".")
    kid, key = server._keys[-1]
    head = segment({"alg": "HS256", "typ": "JWT", "kid": kid})
    secret = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    signature = urlsafe_b64encode(digest(secret, f"{head}.{claims}".encode(), sha256)).rstrip(b"=").decode()
    return f"{head}.{claims}.{signature}"


def segment(claims: dict[str, Any]) -> str:
    return urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()


def bad_credentials(site: Site) -> dict[str, str | None]:
    """Return what opens neither intake, by what is wrong with it."""
    server, now_s = site.server, int(SYSTEM_CLOCK.now_ms() / 1000)
    return {
        "none": None,
        "junk": "Bearer a.b.c",
        "basic": "Basic eDp5",
        "unsigned": f"Bearer {unsigned(server)}",
        "public key": f"Bearer {signed_with_the_public_key(server)}",
        "foreign key": f"Bearer {KeyServer({CLIENT: SECRET}).access_token(CLIENT, iss=ISSUER, aud=AUDIENCE)}",
        "refresh": f"Bearer {server.refresh_token(CLIENT)}",
        "expired": site.bearer(exp=now_s - 90),
        "no end": site.bearer(exp=None),
        "no beginning": site.bearer(iat=None),
        "issuer": site.bearer(iss="https://other.example"),
        "audience": site.bearer(aud="other"),
        "unknown API key": f"ApiKey {'0' * 12}_secret",
    }


async def test_only_right_credentials_leave_something_in_the_topic(
    site: Site, client: aiohttp.ClientSession, written: Callable[[], list[Any]]
) -> None:
    """P9, row 1 of the security notes, over the wire: nothing of an exception, nothing stored; and who sent what was taken."""
    bad, now_s = bad_credentials(site), SYSTEM_CLOCK.now_ms() / 1000
    for name, credentials in bad.items():
        found = await send(client, site, credentials, event_of("refused"))
        assert found.status == 401, name
        assert set(found.body) == {"error"}, name
        assert found.headers["WWW-Authenticate"] == "Bearer, ApiKey"
    for name in OF_THE_LABS:
        found = await post(client, site, bad[name], body_of(pennkey="refused"), "/analytics")
        assert (found.status, set(found.body)) == (401, {"detail"}), name
    taken = await send(client, site, site.bearer(exp=now_s - 5), event_of("taken"))
    txn = await post(client, site, site.bearer(exp=now_s - 30), body_of(pennkey="taken", product=OWN), "/analytics")
    assert (taken.status, txn.status) == (200, 200)
    assert {(event.kind, event.user, event.source, event.product) for event in written()} == {
        ("EVENT", "taken", SUBJECT, OWN.name),
        ("TRANSACTION", "taken", SUBJECT, OWN.name),
    }


async def test_credentials_write_for_their_products_only(
    site: Site, client: aiohttp.ClientSession, written: Callable[[], list[Any]]
) -> None:
    """Row 4 of the security notes: nothing of such a request is stored, not even what would be right alone."""
    for body in (
        a_batch(event_of(product=OWN.name), event_of(product=FOREIGN.name)),
        a_batch(event_of(product=OWN.name), event_of(source="somebody-else")),
    ):
        found = await post(client, site, site.bearer(), body, "/v1/events")
        assert (found.status, found.body["error"]["code"]) == (403, "forbidden")
    found = await post(client, site, site.bearer(), body_of(product=FOREIGN, pennkey="anna"), "/analytics")
    assert found.status == 403
    found = await post(client, site, site.bearer(sub="urn:other:courses"), body_of(pennkey="anna"), "/analytics")
    assert found.status == 403
    assert written() == []


async def test_a_key_counts_from_when_it_is_made_until_it_is_revoked(
    site: Site, client: aiohttp.ClientSession, capsys: pytest.CaptureFixture[str], written: Callable[[], list[Any]]
) -> None:
    """P9, row 3 of the security notes: by the command, without a restart; old and new key in the overlap."""
    old = made_key(site, capsys, "--name", "shop", "--products", "web,ios")
    await eventually(takes(client, site, old, product="web"))
    new = made_key(site, capsys, "--name", "shop", "--products", "web,ios")
    assert main(["keys", "revoke", prefix_of(old), "--in-hours", "1", "--file", str(site.keys_file)]) == 0
    await eventually(takes(client, site, new, product="web"))
    assert (await send(client, site, old, event_of("by the old one", product="web"))).status == 200
    nameless = await send(client, site, new, event_of())
    assert (nameless.status, "names no product" in nameless.body["error"]["message"]) == (403, True)
    assert (await post(client, site, new, body_of(pennkey="anna"), "/analytics")).body == {
        "detail": "Wrong authentication scheme"
    }
    assert main(["keys", "revoke", prefix_of(old), "--file", str(site.keys_file)]) == 0
    await eventually(takes(client, site, old, 401, product="web"))
    assert (await send(client, site, new, event_of("by the new one", product="ios"))).status == 200
    assert {(event.user, event.source) for event in written()} == {("by the old one", "shop"), ("by the new one", "shop")}
    secret = old.partition("_")[2]
    assert secret not in site.keys_file.read_text() + site.gateway.read_log()


def made_key(site: Site, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Return the credentials of a key that the command has made."""
    assert main(["keys", "add", *words, "--file", str(site.keys_file)]) == 0
    return f"ApiKey {capsys.readouterr().out.strip()}"


def prefix_of(credentials: str) -> str:
    return credentials.removeprefix("ApiKey ").partition("_")[0]


async def test_who_sends_too_much_is_told_when_to_come_again_and_others_are_not(
    site: Site, client: aiohttp.ClientSession, capsys: pytest.CaptureFixture[str], written: Callable[[], list[Any]]
) -> None:
    """Row 5 of the security notes: 429 with `Retry-After`, weighted by the batch; nothing of it is stored."""
    noisy = made_key(site, capsys, "--name", "noisy", "--products", "web", "--events-per-s", str(QUOTA_EVENTS_S))
    quiet = made_key(site, capsys, "--name", "quiet", "--products", "web")
    await eventually(takes(client, site, quiet))
    first = [event_of("taken") for _ in range(QUOTA_EVENTS_S * 5)]
    found = await send(client, site, noisy, *first)
    assert (found.status, found.headers["X-RateLimit-Limit"], found.headers["X-RateLimit-Remaining"]) == (200, "20", "0")
    found = await send(client, site, noisy, event_of("refused"))
    assert (found.status, found.body["error"]["code"]) == (429, "quota")
    assert 1 <= int(found.headers["Retry-After"]) <= 5
    assert (await send(client, site, quiet, event_of("beside it"))).status == 200
    await eventually(takes(client, site, noisy))
    assert sorted(event.user for event in written()) == ["beside it", *["taken"] * len(first)]


async def test_rotation_and_outage_of_the_key_server(site: Site, client: aiohttp.ClientSession) -> None:
    """P24: a new key is taken; in an outage tokens of keys known are, others are told to come again, and then are."""
    before = site.bearer()
    site.server.rotate()
    await eventually(takes(client, site, site.bearer()))
    assert (await send(client, site, before, event_of())).status == 200
    site.keys.stop()
    assert (await send(client, site, site.bearer(jti="unseen"), event_of())).status == 200
    site.server.rotate()
    unknown = site.bearer()
    await eventually(takes(client, site, unknown, 503))
    found = await send(client, site, unknown, event_of())
    assert (found.status, found.body["error"]["code"]) == (503, "key_server_down")
    assert int(found.headers["Retry-After"]) >= 1
    assert await key_server_is_up(client, site) == 0
    site.keys.start()
    await eventually(takes(client, site, unknown))
    assert await key_server_is_up(client, site) == 1


async def key_server_is_up(client: aiohttp.ClientSession, site: Site) -> float:
    """Return what the alert looks at."""
    async with client.get(site.gateway.url("/metrics")) as response:
        (value,) = re.findall(r'tally_dependency_up{service="key_server"} (.+)', await response.text())
        return float(value)
