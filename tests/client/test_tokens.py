"""Tokens of a Platform: attested, refreshed 30 s before they expire, and never a reason to lose an event."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from tally_client import Outcome, PlatformTokens, api_key
from tally_client.tokens import Given

from tests.client.conftest import Opening
from tests.client.fast_clock import FastClock
from tests.client.recording import Recorder, Seen

LIFETIME_S = 600.0


def a_token(number: int, clock: FastClock, claims: dict[str, Any], lifetime_s: float = LIFETIME_S) -> str:
    issued_s = clock.wall_s()
    parts = [{"alg": "RS256"}, {"iat": issued_s, "exp": issued_s + lifetime_s, "n": number, **claims}]
    return ".".join([*(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts), "signed"])


class Platform:
    """A token service that counts what it gives."""

    def __init__(self, clock: FastClock, recorder: Recorder) -> None:
        self.clock = clock
        self.asked: list[tuple[str, str]] = []
        self.tokens: list[str] = []
        self.statuses: list[int] = []
        self.claims: dict[str, Any] = {}
        self.lifetime_s = LIFETIME_S
        recorder.routes.update({"/identity/attest/": self.answer, "/identity/refresh/": self.answer})

    def answer(self, seen: Seen) -> dict[str, Any]:
        self.asked.append((seen.path, seen.headers["authorization"]))
        status = self.statuses.pop(0) if self.statuses else 200
        if status != 200:
            return {"status": status}
        self.tokens.append(a_token(len(self.tokens), self.clock, self.claims, self.lifetime_s))
        given = {"access": self.tokens[-1]}
        return {"body": json.dumps({**given, "refresh": "a-refresh"} if "attest" in seen.path else given)}


BASIC = "Basic " + base64.b64encode(b"an-id:a-s3cret").decode()


@pytest.fixture
def platform(clock: FastClock, recorder: Recorder) -> Platform:
    return Platform(clock, recorder)


@pytest.fixture
def tokens(platform: Platform, recorder: Recorder) -> PlatformTokens:
    return PlatformTokens(recorder.url, "an-id", "a-s3cret", clock=platform.clock)


def used(recorder: Recorder) -> list[str]:
    return [seen.headers["authorization"].removeprefix("Bearer ") for seen in recorder.seen]


def test_a_token_is_refreshed_thirty_seconds_before_it_expires(
    platform: Platform, tokens: PlatformTokens, recorder: Recorder, open_client: Opening
) -> None:
    """P16. One second earlier it is still used; the first is attested with the client's id and secret."""
    client = open_client(tokens)
    for slept_s in (0.0, LIFETIME_S / 2, LIFETIME_S / 2 - 20):
        platform.clock.slept_s += slept_s
        client.capture()
        assert client.flush()
    assert used(recorder) == [platform.tokens[0], platform.tokens[0], platform.tokens[1]]
    assert platform.asked == [("/identity/attest/", BASIC), ("/identity/refresh/", "Bearer a-refresh")]


def test_a_token_is_good_until_thirty_seconds_before(clock: FastClock) -> None:
    """To the second, on a clock that stands."""
    stopped = FastClock(speed=0.0)
    tokens = PlatformTokens("http://platform", "an-id", "a-s3cret", clock=stopped)
    steps = tokens.renew()
    next(steps)
    with pytest.raises(StopIteration):
        steps.send(_given(a_token(0, stopped, {})))
    for slept_s, is_good in ((LIFETIME_S - 30.1, True), (0.2, False)):
        stopped.slept_s += slept_s
        assert (tokens.header() is not None) is is_good


def _given(token: str) -> Any:
    from tally_client import Answer

    return Answer(200, {}, json.dumps({"access": token}).encode())


@pytest.mark.parametrize("lifetime_s", [30.0, 10.0, 0.5, 0.0])
def test_a_token_of_a_short_life_is_used_and_renewed(
    lifetime_s: float, platform: Platform, tokens: PlatformTokens, recorder: Recorder, open_client: Opening
) -> None:
    """P16: no request goes without a token because the one that was just given is as good as over; the next one has another."""
    platform.lifetime_s = lifetime_s
    client = open_client(tokens)
    for _ in range(2):
        client.capture()
        assert client.flush()
        platform.clock.slept_s += max(1.0, lifetime_s / 2)
    first, second = used(recorder)
    assert first != second and {first, second} <= set(platform.tokens)
    assert client.stats() == (2, 2, {}, 0)


def test_nothing_is_sent_without_a_token(recorder: Recorder, open_client: Opening) -> None:
    """Credentials of one's own that still have none after a renewal delay, as an outage does: 401 would be final."""

    class Slow(Given):
        looked = 0

        def header(self) -> str | None:
            self.looked += 1
            return super().header() if self.looked > 6 else None

    client = open_client(Slow("Bearer late"))
    client.capture()
    assert client.flush()
    assert [seen.headers["authorization"] for seen in recorder.seen] == ["Bearer late"]


def test_a_refused_refresh_attests_again(
    platform: Platform, tokens: PlatformTokens, recorder: Recorder, open_client: Opening
) -> None:
    """Refresh tokens expire too."""
    client = open_client(tokens)
    client.capture()
    assert client.flush()
    platform.clock.slept_s += LIFETIME_S
    platform.statuses = [401]
    client.capture()
    assert client.flush()
    assert [path for path, _ in platform.asked] == ["/identity/attest/", "/identity/refresh/", "/identity/attest/"]
    assert used(recorder) == platform.tokens


def test_an_outage_of_the_platform_delays_and_loses_nothing(
    platform: Platform, tokens: PlatformTokens, recorder: Recorder, open_client: Opening
) -> None:
    """No token now is like no answer now."""
    platform.statuses = [503, 500, 429]
    client = open_client(tokens)
    event_id = client.capture()
    assert client.flush()
    assert recorder.kept == {event_id}
    assert len(platform.asked) == 4


def test_a_token_that_no_header_can_hold_delays_and_loses_nothing(
    platform: Platform, tokens: PlatformTokens, recorder: Recorder, open_client: Opening
) -> None:
    """A service that answers nonsense for a moment is like one that does not answer."""
    nonsense: list[dict[str, Any]] = [{"body": json.dumps({"access": access})} for access in ("with\nbreak", "ключ")]
    recorder.routes["/identity/attest/"] = lambda seen: nonsense.pop() if nonsense else platform.answer(seen)
    client = open_client(tokens)
    event_id = client.capture()
    assert client.flush()
    assert recorder.kept == {event_id} and used(recorder) == platform.tokens
    assert client.stats() == (1, 1, {}, 0)


def test_a_wrong_secret_is_told_and_not_repeated(
    platform: Platform, tokens: PlatformTokens, recorder: Recorder, open_client: Opening
) -> None:
    """It would not become right by asking again, and a Platform may lock who does."""
    told: list[Outcome] = []
    platform.statuses = [401]
    client = open_client(tokens, on_error=told.append)
    client.capture()
    assert client.flush()
    assert recorder.seen == []
    assert [(outcome.code, "s3cret" in outcome.detail) for outcome in told] == [("credentials_refused", False)]


def test_a_token_that_the_server_refuses_is_replaced_once(
    platform: Platform, tokens: PlatformTokens, recorder: Recorder, open_client: Opening
) -> None:
    """Keys rotate: that must not cost a batch. Refused with a new token too, it is final, as the contract says of 401."""
    told: list[Outcome] = []
    client = open_client(tokens, on_error=told.append)
    for answers, stats in (([401], (1, 1, {}, 0)), ([401, 401], (2, 1, {"http_401": 1}, 0))):
        recorder.script([{"status": status} for status in answers])
        client.capture()
        assert client.flush()
        assert client.stats() == stats
    assert len({seen.headers["x-request-id"] for seen in recorder.seen[:2]}) == 1
    assert used(recorder) == [platform.tokens[number] for number in (0, 1, 1, 2)] and len(platform.tokens) == 3
    assert [outcome.code for outcome in told] == ["http_401"]


@pytest.mark.parametrize("jump_s", [-86_400.0, 86_400.0])
def test_a_wrong_wall_clock_does_not_change_a_lifetime(
    jump_s: float, platform: Platform, tokens: PlatformTokens, recorder: Recorder, open_client: Opening
) -> None:
    """The token says when it was issued; only the time since then counts, and that never jumps."""
    client = open_client(tokens)
    client.capture()
    assert client.flush()
    platform.clock.jumped_s += jump_s
    platform.clock.slept_s += LIFETIME_S / 2
    client.capture()
    assert client.flush()
    assert len(platform.tokens) == 1


@pytest.mark.parametrize("key", ["with\nbreak", "with\r\nX-Admin: 1", "ключ"])
def test_a_key_cannot_smuggle_a_header(key: str) -> None:
    """It would become one, in the name of whoever set it."""
    with pytest.raises(ValueError, match="printable ASCII"):
        api_key(key)
