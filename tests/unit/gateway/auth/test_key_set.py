"""When keys are fetched, by whom, and what counts while they cannot be."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import RSAAlgorithm

from gateway.auth.key_set import FAILED_PAUSE_S, KEYS_MAX, MISS_PAUSE_S, KeyServerError, KeySet, keys_of
from stack.key_server import KeyServer
from tests.support.clock import SteppedClock
from tests.support.key_server import KeysAtHand


@pytest.fixture(scope="module")
def server() -> KeyServer:
    return KeyServer({})


@pytest.fixture
def clock() -> SteppedClock:
    return SteppedClock(now_ms=1_000_000)


@pytest.fixture
def at_hand(server: KeyServer) -> KeysAtHand:
    return KeysAtHand(server)


async def test_all_who_ask_at_a_cold_start_wait_for_one_fetch(at_hand: KeysAtHand, clock: SteppedClock) -> None:
    """Row 2 of the security notes: a hundred requests are waiting when the first answer of the key server comes."""
    keys = KeySet(at_hand.fetch, clock=clock)
    assert all(await asyncio.gather(*(keys.renew() for _ in range(100))))
    assert at_hand.fetches == 1
    assert [key.key_id for key in keys.matching(None)] == [key.key_id for key in keys.matching("key-1")] == ["key-1"]


async def test_a_flood_of_unknown_keys_makes_one_fetch_in_ten_seconds(at_hand: KeysAtHand, clock: SteppedClock) -> None:
    """Row 2 of the security notes: anybody can send tokens of keys that nobody has; the key server must not pay for it."""
    keys = KeySet(at_hand.fetch, clock=clock)
    await keys.renew()
    for _ in range(int(MISS_PAUSE_S * 3 * 10)):
        await keys.renew()
        clock.step(0.1)
    assert at_hand.fetches == 1 + 3


async def test_a_server_that_was_never_reached_is_tried_again_soon(at_hand: KeysAtHand, clock: SteppedClock) -> None:
    """P24: without any key nobody can be let in; but it is not asked at every request."""
    keys = KeySet(at_hand.fetch, clock=clock)
    at_hand.answers = False
    assert await keys.renew()
    assert not await keys.renew()
    assert not keys.is_fresh
    at_hand.answers = True
    clock.step(FAILED_PAUSE_S)
    assert await keys.renew()
    assert keys.is_fresh


async def test_an_outage_leaves_the_keys_in_use(
    at_hand: KeysAtHand, clock: SteppedClock, caplog: pytest.LogCaptureFixture
) -> None:
    """P24, row 2 of the security notes: one failed fetch must not lock everybody out; it is told once, not at every try."""
    keys = KeySet(at_hand.fetch, clock=clock)
    await keys.renew()
    at_hand.answers = False
    for _ in range(3):
        clock.step(MISS_PAUSE_S)
        await keys.renew()
    assert keys.matching("key-1")
    assert not keys.is_fresh
    assert [record.levelname for record in caplog.records] == ["WARNING"]


async def test_a_request_that_is_given_up_does_not_take_the_fetch_from_the_others(
    at_hand: KeysAtHand, clock: SteppedClock
) -> None:
    """Clients leave while they wait."""
    keys = KeySet(at_hand.fetch, clock=clock)
    first, second = (asyncio.create_task(keys.renew()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert await second
    assert keys.matching("key-1")


async def test_the_keys_are_renewed_in_the_background(at_hand: KeysAtHand, clock: SteppedClock) -> None:
    """So that no request waits for the first fetch, and a withdrawn key ends although nobody sends an unknown one."""
    keys = KeySet(at_hand.fetch, clock=clock)
    running = asyncio.create_task(keys.run())
    while not keys.is_fresh:
        await asyncio.sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await keys.close()


async def test_an_outage_that_a_request_has_found_is_looked_after_in_the_background(
    at_hand: KeysAtHand, clock: SteppedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P24: between two renewals nobody else would see that the server is back: the alert would go on for minutes."""
    monkeypatch.setattr("gateway.auth.key_set.RETRY_S", (0.0, 0.0))
    keys = KeySet(at_hand.fetch, clock=clock)
    running = asyncio.create_task(keys.run())
    while not keys.is_fresh:
        await asyncio.sleep(0)
    at_hand.answers = False
    while keys.is_fresh:
        await keys.renew()
    at_hand.answers = True
    async with asyncio.timeout(10):
        while not keys.is_fresh:
            await asyncio.sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_bug_in_a_fetch_is_not_swallowed(clock: SteppedClock) -> None:
    """A key set that never comes, without a word, would look like an outage of the server."""

    async def broken() -> bytes:
        raise LookupError("a bug")

    with pytest.raises(LookupError):
        await KeySet(broken, clock=clock).renew()


def test_keys_that_are_secret_or_not_for_signatures_are_left_out(server: KeyServer) -> None:
    """A shared secret among public keys, an encryption key, a private key, and what nobody knows."""
    public = server.key_set()["keys"][0]
    others = [
        {"kty": "oct", "k": "c2VjcmV0", "kid": "a"},
        public | {"use": "enc", "kid": "b"},
        RSAAlgorithm.to_jwk(server._keys[-1][1], as_dict=True) | {"kid": "c"},
        public | {"n": 5, "kid": "d"},
        public | {"alg": "HS256", "kid": "e"},
        {"kty": "new", "kid": "f"},
        public | {"kid": 7},
        "text",
    ]
    found = keys_of(json.dumps({"keys": [*others, public]}).encode())
    assert [key.key_id for key in found if key.key_type != "RSA" or key.algorithm_name != "RS256"] == []
    assert "key-1" in {key.key_id for key in found}
    assert not {key.key_id for key in found} & {"a", "b", "c", "d", "f"}


def test_a_document_without_usable_keys_is_no_answer(server: KeyServer) -> None:
    """Taking it would forget the keys that are known."""
    many = {"keys": server.key_set()["keys"] * (KEYS_MAX + 1)}
    for document in (b"", b"[]", b"{}", b'{"keys":5}', b'{"keys":[]}', b"[" * 100_000, json.dumps(many).encode()):
        with pytest.raises(KeyServerError):
            keys_of(document)


@given(
    st.dictionaries(
        st.sampled_from(["kty", "n", "e", "x", "y", "crv", "alg", "use", "kid"]),
        st.sampled_from(["RSA", "EC", "OKP", "AQAB", "P-256", "Ed25519", "RS256", "ES256", "", "é", "sig"])
        | st.none()
        | st.integers()
        | st.lists(st.text(max_size=2), max_size=2),
    )
)
def test_no_key_of_a_careless_server_is_a_bug(entry: dict[str, object]) -> None:
    """It is left out, or it is a key."""
    with suppress(KeyServerError):
        assert len(keys_of(json.dumps({"keys": [entry]}).encode())) == 1
