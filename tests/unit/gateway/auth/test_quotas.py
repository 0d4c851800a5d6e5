"""How much one identity may send, by an injected clock."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth import quotas as quotas_module
from gateway.auth.identity import NOBODY, Identity, Quota, Refused
from gateway.auth.quotas import BURST_S, Quotas

SHOP = Identity("shop", None, None, "api_key")


class Clock:
    """A clock that a test sets."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def quotas(events_per_s: float = 0.0, bytes_per_s: float = 0.0) -> tuple[Quotas, Clock]:
    clock = Clock()
    return Quotas(Quota(events_per_s, bytes_per_s), clock=clock), clock


def refused(limits: Quotas, identity: Identity = SHOP, *, events: int = 1, size_bytes: int = 0) -> Refused:
    with pytest.raises(Refused) as caught:
        limits.take(identity, events=events, size_bytes=size_bytes)
    return caught.value


def test_a_second_of_events_may_come_at_once_and_no_more() -> None:
    """Row 5 of the security notes: the answer tells what is left, and when all will be; a refusal when to come again."""
    limits, clock = quotas(events_per_s=10)
    assert limits.take(SHOP, events=4, size_bytes=1) == [
        (b"x-ratelimit-limit", b"10"),
        (b"x-ratelimit-remaining", b"6"),
        (b"x-ratelimit-reset", b"1"),
    ]
    limits.take(SHOP, events=6, size_bytes=1)
    found = refused(limits)
    assert (found.status, found.retry_after_s) == (429, 1)
    assert dict(found.headers)[b"x-ratelimit-remaining"] == b"0"
    clock.now_s += 0.5
    limits.take(SHOP, events=5, size_bytes=1)
    assert refused(limits).retry_after_s == 1


def test_a_batch_larger_than_a_second_is_taken_when_nothing_is_owed_and_paid_off() -> None:
    """Otherwise it could never be sent; the client is told how long it pays."""
    limits, clock = quotas(events_per_s=10)
    limits.take(SHOP, events=100, size_bytes=0)
    assert refused(limits).retry_after_s == 10
    clock.now_s += 9.0
    assert refused(limits).retry_after_s == 1
    clock.now_s += 0.1
    limits.take(SHOP, events=1, size_bytes=0)


def test_a_refused_request_costs_nothing_of_either_kind() -> None:
    """A client that is over in bytes must not lose its events as well."""
    limits, _ = quotas(events_per_s=10, bytes_per_s=1_000)
    limits.take(SHOP, events=1, size_bytes=1_000)
    for _ in range(5):
        assert "bytes" in refused(limits, events=9, size_bytes=1).detail
    limits.take(SHOP, events=9, size_bytes=0)


def test_one_identity_takes_nothing_from_another_and_may_have_a_quota_of_its_own() -> None:
    """Row 5 of the security notes: a key may allow more, or all, or less in one of the two; nobody is an identity too."""
    limits, _ = quotas(events_per_s=1, bytes_per_s=100)
    limits.take(SHOP, events=1, size_bytes=0)
    refused(limits)
    limits.take(NOBODY, events=1, size_bytes=0)
    limits.take(Identity("shop", None, None, "jwt"), events=1, size_bytes=0)
    free = Identity("free", None, None, "api_key", Quota(0.0, None))
    for _ in range(5):
        limits.take(free, events=1_000, size_bytes=10)
    refused(limits, free, size_bytes=60)


def test_without_limits_nothing_is_kept_or_told() -> None:
    """The default costs nothing."""
    limits, _ = quotas()
    assert limits.take(SHOP, events=10**9, size_bytes=10**9) == []
    assert not limits._buckets


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 5 of the security notes: those are forgotten that have not sent for longest."""
    monkeypatch.setattr(quotas_module, "IDENTITIES_MAX", 3)
    limits, _ = quotas(events_per_s=1)
    for number in range(10):
        limits.take(Identity(str(number), None, None, "jwt"), events=1, size_bytes=0)
        limits.take(SHOP, events=0, size_bytes=0)
    assert list(limits._buckets) == [("jwt", "8"), ("jwt", "9"), ("api_key", "shop")]


@given(
    per_s=st.floats(0.1, 1_000),
    requests=st.lists(st.tuples(st.integers(1, 500), st.floats(0, 3)), min_size=1, max_size=60),
)
def test_no_pattern_of_requests_gets_more_than_the_rate_a_burst_and_one_batch(
    per_s: float, requests: list[tuple[int, float]]
) -> None:
    """However sizes and pauses are chosen; and who waits as long as told is let in."""
    limits, clock = quotas(events_per_s=per_s)
    began_s, taken, largest = clock.now_s, 0, 0
    for events, pause_s in requests:
        clock.now_s += pause_s
        try:
            limits.take(SHOP, events=events, size_bytes=0)
        except Refused as found:
            assert found.retry_after_s is not None
            clock.now_s += found.retry_after_s
            limits.take(SHOP, events=events, size_bytes=0)
        taken, largest = taken + events, max(largest, events)
        assert taken <= (clock.now_s - began_s + BURST_S) * per_s + largest + 1e-3
