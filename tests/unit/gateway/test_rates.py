"""How often a client may ask, by an injected clock."""

from __future__ import annotations

from gateway import rates
from gateway.rates import Rates


class Clock:
    """A clock that a test sets."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_a_second_of_requests_may_come_at_once_and_then_one_a_step() -> None:
    """The rate, and a burst of one second of it."""
    clock = Clock()
    limit = Rates(4, clock=clock)
    assert [limit.wait_s(("a", 1)) for _ in range(6)] == [0, 0, 0, 0, 1, 1]
    assert limit.wait_s(("b", 1)) == 0
    clock.now_s += 0.25
    assert [limit.wait_s(("a", 1)) for _ in range(2)] == [0, 1]
    clock.now_s += 60
    assert [limit.wait_s(("a", 1)) for _ in range(5)] == [0, 0, 0, 0, 1]


def test_a_rate_below_one_a_second_says_how_long_to_wait() -> None:
    """Retry-After is whole seconds, and asking then is taken."""
    clock = Clock()
    limit = Rates(0.1, clock=clock)
    assert limit.wait_s(None) == 0
    wait_s = limit.wait_s(None)
    assert wait_s == 10
    clock.now_s += wait_s
    assert limit.wait_s(None) == 0


def test_clients_that_were_forgotten_begin_anew() -> None:
    """Memory has a limit: those who have not asked for longest go."""
    clock = Clock()
    limit = Rates(1, clock=clock)
    assert [limit.wait_s((f"client {number}", 1)) for number in range(rates.CLIENTS_MAX + 1)] == [0] * (rates.CLIENTS_MAX + 1)
    assert limit.wait_s(("client 0", 1)) == 0
    assert limit.wait_s((f"client {rates.CLIENTS_MAX}", 1)) == 1
