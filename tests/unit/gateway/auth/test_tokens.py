"""What a token must be, under a clock of our own and keys at hand."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gateway.auth import tokens as tokens_module
from gateway.auth.identity import RefusalReason, Refused
from gateway.auth.key_set import KeySet
from gateway.auth.tokens import TokenRules, Tokens
from stack.key_server import KeyServer
from tests.support.clock import SteppedClock
from tests.support.key_server import CLIENT, SECRET, KeysAtHand

NOW_MS = 1_700_000_000_000
NOW_S = NOW_MS // 1000
RULES = TokenRules(issuer="https://issuer", audience="tally", leeway_s=30, age_s_max=86_400)
SUBJECT = f"urn:pennlabs:{CLIENT}"


class Case:
    """A key server, and those who believe it."""

    def __init__(self, server: KeyServer, rules: TokenRules = RULES) -> None:
        self.clock = SteppedClock(now_ms=NOW_MS)
        self.server = server
        self.server.claims = {"iss": "https://issuer", "aud": "tally"}
        self.at_hand = KeysAtHand(server)
        self.keys = KeySet(self.at_hand.fetch, clock=self.clock)
        self.tokens = Tokens(self.keys, rules, clock=self.clock)

    def token(self, **claims: Any) -> str:
        now_s = self.clock.now_ms() / 1000
        return self.server.access_token(CLIENT, **{"iat": now_s, "exp": now_s + 3600} | claims)

    async def subject_of(self, token: str | bytes) -> str:
        return await self.tokens.subject_of(token.encode() if isinstance(token, str) else token)

    async def refused(self, token: str | bytes) -> Refused:
        with pytest.raises(Refused) as caught:
            await self.subject_of(token)
        return caught.value


@pytest.fixture(scope="module")
def server() -> KeyServer:
    """Return one server for all tests of the file: a key takes a while to make."""
    return KeyServer({CLIENT: SECRET})


@pytest.fixture
def case(server: KeyServer) -> Case:
    server.names_keys = True
    return Case(server)


async def test_a_right_token_names_its_subject_whether_it_names_its_key_or_not(case: Case) -> None:
    """The Platform's tokens name none."""
    assert await case.subject_of(case.token()) == SUBJECT
    case.server.names_keys = False
    assert await case.subject_of(case.token()) == SUBJECT
    assert case.at_hand.fetches == 1


BAD_CLAIMS: list[tuple[dict[str, Any], str]] = [
    ({"iss": "https://other"}, "Wrong issuer"),
    ({"iss": None}, "Token has no iss"),
    ({"aud": "other"}, "Wrong audience"),
    ({"aud": None}, "Token has no aud"),
    ({"exp": None}, "Token has no exp"),
    ({"iat": None}, "Token has no iat"),
    ({"use": "refresh"}, "Not an access token"),
    ({"use": 5}, "Not an access token"),
    ({"exp": "soon"}, "Token format unrecognized"),
    ({"exp": True}, "Token format unrecognized"),
    ({"exp": float("inf")}, "Token format unrecognized"),
    ({"exp": float("nan")}, "Token format unrecognized"),
    ({"exp": 10**400}, "Token format unrecognized"),
    ({"nbf": "now"}, "Token format unrecognized"),
    ({"sub": 5}, "Token format unrecognized"),
    ({"sub": "x" * 257}, "Token format unrecognized"),
    ({"iat": NOW_S + 31}, f"Valid from {NOW_S + 31}, time: {NOW_S}(leeway: 30)"),
    ({"nbf": NOW_S + 31}, f"Valid from {NOW_S + 31}, time: {NOW_S}(leeway: 30)"),
    ({"exp": NOW_S - 31}, f"Expired at {NOW_S - 31}, time: {NOW_S}(leeway: 30)"),
    ({"iat": NOW_S - 86_431}, f"Issued at {NOW_S - 86_431}, too long ago"),
]


@pytest.mark.parametrize(("claims", "detail"), BAD_CLAIMS, ids=[f"{next(iter(c))}-{n}" for n, (c, _) in enumerate(BAD_CLAIMS)])
async def test_a_signed_token_with_a_bad_claim_is_refused(case: Case, claims: dict[str, Any], detail: str) -> None:
    """Row 1 of the security notes: each claim that says for whom, by whom or when, absent and wrong."""
    refused = await case.refused(case.token(**claims))
    assert (refused.status, refused.detail) == (401, detail)


async def test_a_token_counts_to_its_end_and_the_leeway_remembered_or_not(case: Case) -> None:
    """Row 1 of the security notes: 29 s after its end it is taken, 31 s after it is not; remembered is who sent it, no more."""
    token = case.token(exp=NOW_S + 60)
    assert await case.subject_of(token) == SUBJECT
    case.clock.step(60 + 29)
    assert await case.subject_of(token) == SUBJECT
    case.clock.step(2)
    assert (await case.refused(token)).reason is RefusalReason.EXPIRED
    assert (await case.refused(case.token(exp=NOW_S + 60))).reason is RefusalReason.EXPIRED


def segment(value: Any) -> str:
    return urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def unsigned(case: Case) -> str:
    payload = case.token().split(".")[1]
    return f"{segment({'alg': 'none', 'typ': 'JWT'})}.{payload}."


def signed_with_the_public_key(case: Case) -> str:
    """Return HS256 of the public key in PEM, which a library that believes `alg` would take."""
    import hashlib
    import hmac

    _, key = case.server._keys[-1]
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    head = f"{segment({'alg': 'HS256', 'typ': 'JWT', 'kid': 'key-1'})}.{case.token().split('.')[1]}"
    signature = hmac.new(public, head.encode(), hashlib.sha256).digest()
    return f"{head}.{urlsafe_b64encode(signature).rstrip(b'=').decode()}"


def with_its_own_key(case: Case) -> str:
    """Return a token of a foreign key that brings that key along, and says where more are."""
    foreign = KeyServer({CLIENT: SECRET})
    _, key = foreign._keys[-1]
    header = {
        "jku": "http://127.0.0.1:1/keys",
        "x5u": "http://127.0.0.1:1/x",
        "jwk": foreign.key_set()["keys"][0],
        "kid": "mine",
    }
    return jwt.encode({"sub": SUBJECT, "exp": NOW_S + 60, "iat": NOW_S}, key, "RS256", headers=header)


def with_a_foreign_signature(case: Case) -> str:
    """Return a token of a foreign key under the id of ours."""
    return jwt.encode({"sub": SUBJECT, "exp": NOW_S + 60}, KeyServer({})._keys[-1][1], "RS256", headers={"kid": "key-1"})


def with_a_critical_header(case: Case) -> str:
    _, key = case.server._keys[-1]
    return jwt.encode({"sub": SUBJECT, "exp": NOW_S + 60}, key, "RS256", headers={"kid": "key-1", "crit": ["x"], "x": 1})


def deep(case: Case) -> str:
    return f"{urlsafe_b64encode(b'[' * 100_000).decode()}.e30.e30"


@pytest.mark.parametrize(
    ("forge", "detail"),
    [
        (unsigned, "Algorithm not allowed"),
        (signed_with_the_public_key, "Algorithm not allowed"),
        (with_its_own_key, "Missing Key"),
        (with_a_foreign_signature, "Missing Key"),
        (with_a_critical_header, "Token format unrecognized"),
        (deep, "Token format unrecognized"),
    ],
)
async def test_a_forged_token_is_refused(case: Case, forge: Callable[[Case], str], detail: str) -> None:
    """Row 1 of the security notes: `alg` decides nothing, and no header says where keys come from."""
    assert await case.subject_of(case.token()) == SUBJECT
    refused = await case.refused(forge(case))
    assert (refused.status, refused.detail) == (401, detail)


async def test_a_weak_key_signs_nothing(case: Case) -> None:
    """A key of 1,024 bits can be broken; a server that publishes one is no reason to believe it."""
    from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key

    server = KeyServer({})
    server._keys.clear()
    server._keys.append(("weak", generate_private_key(65_537, 1_024)))
    weak = Case(server)
    with pytest.warns(Warning, match="1024"):
        token = weak.token()
    assert (await weak.refused(token)).detail == "Missing Key"


async def test_tokens_are_verified_once_and_anew_when_the_keys_change(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """The signature is the dear part; a key that the server has withdrawn must not go on by what it proved before."""
    token, verified = case.token(), 0
    decode = jwt.decode

    def counted(*arguments: Any, **named: Any) -> Any:
        nonlocal verified
        verified += 1
        return decode(*arguments, **named)

    monkeypatch.setattr(jwt, "decode", counted)
    for _ in range(5):
        await case.subject_of(token)
    assert verified == 1
    case.server.rotate()
    case.server.rotate()  # the key of the token is gone now
    case.clock.step(60)
    assert await case.subject_of(case.token()) == SUBJECT  # an unknown key id: fetched
    assert (await case.refused(token)).detail == "Missing Key"


async def test_what_is_remembered_is_bounded(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token is new every hour, for ever."""
    monkeypatch.setattr(tokens_module, "REMEMBERED_MAX", 3)
    for number in range(10):
        await case.subject_of(case.token(jti=str(number)))
    assert len(case.tokens._remembered) == 3


TEXTS = st.one_of(
    st.binary(max_size=200),
    st.text(max_size=200).map(lambda text: text.encode()),
    st.lists(st.binary(max_size=60).map(urlsafe_b64encode), min_size=1, max_size=5).map(b".".join),
)
JSONS = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TEXTS)
@example(b"..")
@example(b"a.b.c")
async def test_no_bytes_do_anything_but_be_refused(case: Case, token: bytes) -> None:
    """Anybody can send them: an exception here would be a 500 at will."""
    assert (await case.refused(token)).status == 401


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    header=st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jku"]), JSONS),
    signature=st.binary(max_size=300),
)
async def test_no_header_does_anything_but_be_refused(case: Case, header: dict[str, Any], signature: bytes) -> None:
    """What a header holds is read before any signature is; the algorithm is ours, to get further."""
    head = segment({"alg": "RS256", "kid": "key-1"} | header)
    token = f"{head}.{segment({'sub': SUBJECT})}.{urlsafe_b64encode(signature).rstrip(b'=').decode()}"
    assert (await case.refused(token)).status == 401


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(["sub", "exp", "iat", "nbf", "iss", "aud", "use", "jti"]), JSONS))
async def test_no_claims_do_anything_but_be_refused_or_taken(case: Case, claims: dict[str, Any]) -> None:
    """Those of a token that is signed rightly: its issuer may be careless."""
    said = {"exp": NOW_S + 60, "iat": NOW_S} | case.server.claims | {"sub": SUBJECT} | claims
    kid, key = case.server._keys[-1]
    token = jwt.api_jws.encode(json.dumps(said).encode(), key, "RS256", headers={"kid": kid})
    try:
        subject = await case.subject_of(token)
    except Refused as refused:
        assert refused.status == 401
    else:
        assert subject == said["sub"] or not said["sub"]
        assert claims.get("use", "access") == "access"
