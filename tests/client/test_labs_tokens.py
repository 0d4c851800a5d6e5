"""Tokens of the client of Labs' intake: attested, refreshed in time, replaced when refused (Labs, row P16)."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from tally_client.tokens import PlatformTokens

from tests.client.labs_client import DATA, SetClock, a_client
from tests.client.labs_server import LabsServer, Reply, a_token, labs_server


@pytest.fixture
def server() -> Iterator[LabsServer]:
    with labs_server() as server:
        yield server


def tokens_of(server: LabsServer, clock: SetClock) -> PlatformTokens:
    return PlatformTokens(server.url, "id", "s3cret", clock=clock)


def test_a_token_is_attested_once_and_refreshed_30_s_before_it_expires(server: LabsServer) -> None:
    """P16: token refresh 30 s before expiry, by the refresh token; ten threads that need one ask once."""
    clock = SetClock()
    given = iter(["a", "b"])

    def give() -> Reply:
        return Reply(200, {"access": a_token(lifetime_s=300, mark=next(given)), "refresh": "r3fresh"})

    server.tokens = {"/identity/attest/": give, "/identity/refresh/": give}
    with a_client(server.url, tokens_of(server, clock), clock=clock) as client:
        for skipped_s in (0, 260, 271):
            clock.skipped_s = skipped_s
            for _ in range(10):
                client.submit(DATA)
            assert client.flush()
    service = [(asked.path, asked.headers["Authorization"]) for asked in server.asked if "identity" in asked.path]
    assert service == [("/identity/attest/", "Basic aWQ6czNjcmV0"), ("/identity/refresh/", "Bearer r3fresh")]
    used = [asked.headers["Authorization"].removeprefix("Bearer ") for asked in server.posted()]
    assert used == [a_token(lifetime_s=300, mark="a")] * 20 + [a_token(lifetime_s=300, mark="b")] * 10


def test_a_revoked_token_is_replaced_and_nothing_is_lost(server: LabsServer) -> None:
    """P16 with P24: keys rotate; a 401 costs each transaction one more attempt, not its life."""
    server.replies.extend([Reply(401)] * 3)
    with a_client(server.url, tokens_of(server, SetClock()), threads=3) as client:
        server.hold.clear()
        for _ in range(3):
            client.submit(DATA)
        server.wait_for(lambda: sum("analytics" in asked.path for asked in server.asked) == 3)
        server.hold.set()
        assert client.flush()
        assert client.stats() == (3, 3, {}, 0)
    assert len({asked.key for asked in server.posted()}) == 3
    assert len({asked.headers["Authorization"] for asked in server.posted()}) >= 2


def test_a_late_refusal_of_the_old_token_does_not_cost_the_new_one(server: LabsServer) -> None:
    """P16: ten requests are in flight when a token is revoked; the last to hear of it must not throw the next token away."""
    late = threading.Event()
    server.replies.extend([Reply(401, after=late), Reply(401)])
    with a_client(server.url, tokens_of(server, SetClock())) as client:
        for n in range(2):
            client.submit(DATA)
            server.wait_for(lambda: len(server.posted()) == n + 1)  # noqa: B023 - it is called at once
        server.wait_for(lambda: len(server.posted()) == 3)
        late.set()
        assert client.flush()
        assert client.stats() == (2, 2, {}, 0)
    assert sum(asked.path == "/identity/attest/" for asked in server.asked) == 2


def test_a_token_that_is_refused_twice_ends_the_transaction(server: LabsServer) -> None:
    """P16: a product that may not send must not send for ever."""
    server.replies.extend([Reply(401)] * 5)
    with a_client(server.url, tokens_of(server, SetClock())) as client:
        client.submit(DATA)
        assert client.flush()
        assert client.stats() == (1, 0, {"http_401": 1}, 0)
    assert len(server.posted()) == 2


def test_a_token_service_that_is_down_delays_and_one_that_refuses_ends(server: LabsServer) -> None:
    """P16: 503 of the token service is not the transaction's fault; a wrong secret stays wrong."""
    answers = iter([Reply(503), Reply(200, {"access": a_token(lifetime_s=300), "refresh": "r"}), Reply(401)])
    server.tokens = {"/identity/attest/": lambda: next(answers)}
    with a_client(server.url, tokens_of(server, SetClock())) as client:
        client.submit(DATA)
        assert client.flush()
        assert client.stats() == (1, 1, {}, 0)
    with a_client(server.url, tokens_of(server, SetClock())) as client:
        client.submit(DATA)
        assert client.flush()
        assert client.stats() == (1, 0, {"credentials_refused": 1}, 0)
