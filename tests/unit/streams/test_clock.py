"""The system's clock counts in the units it says."""

from __future__ import annotations

from datetime import UTC, datetime

from streams.clock import SYSTEM_CLOCK


def test_now_is_milliseconds_since_1970() -> None:
    """A clock in seconds would make every age a thousand times too small."""
    before = datetime.now(UTC).timestamp()
    now_ms = SYSTEM_CLOCK.now_ms()
    assert int(before * 1000) - 1 <= now_ms <= datetime.now(UTC).timestamp() * 1000


def test_monotonic_never_goes_back() -> None:
    """Intervals are measured with it."""
    assert SYSTEM_CLOCK.monotonic_s() <= SYSTEM_CLOCK.monotonic_s()
