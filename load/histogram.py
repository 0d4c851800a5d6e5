"""Count latencies in buckets of at most 0.2 % width, from 1 µs to an hour: percentiles without keeping every value."""

from __future__ import annotations

_EXACT_BITS = 10
_HALF = 1 << (_EXACT_BITS - 1)
_LATENCY_US_MAX = 3_600_000_000
_BUCKETS = ((_LATENCY_US_MAX.bit_length() - _EXACT_BITS + 2) * _HALF) + _HALF


class Histogram:
    """Latencies in seconds; up to 1,023 µs exact, above it in buckets of equal relative width."""

    def __init__(self) -> None:
        self._counts = [0] * _BUCKETS
        self.count = 0
        self.max_s = 0.0

    def add(self, latency_s: float) -> None:
        """Count one latency; more than an hour counts as an hour."""
        latency_us = min(int(latency_s * 1_000_000), _LATENCY_US_MAX)
        shift = max(latency_us.bit_length() - _EXACT_BITS, 0)
        self._counts[shift * _HALF + (latency_us >> shift)] += 1
        self.count += 1
        self.max_s = max(self.max_s, latency_s)

    def merge(self, other: Histogram) -> None:
        """Add what *other* counted."""
        for bucket, count in enumerate(other._counts):
            if count:
                self._counts[bucket] += count
        self.count += other.count
        self.max_s = max(self.max_s, other.max_s)

    def quantile_s(self, fraction: float) -> float:
        """Return the latency that *fraction* of the requests stay at or under; 0 where there were none.

        >>> histogram = Histogram()
        >>> for latency_ms in range(1, 101):
        ...     histogram.add(latency_ms / 1000)
        >>> round(histogram.quantile_s(0.5), 3), round(histogram.quantile_s(0.99), 3)
        (0.05, 0.099)
        """
        wanted = fraction * self.count
        seen = 0
        for bucket, count in enumerate(self._counts):
            seen += count
            if count and seen >= wanted:
                return min(_upper_us(bucket) / 1_000_000, self.max_s)
        return 0.0


def _upper_us(bucket: int) -> int:
    """Return the greatest latency of a bucket."""
    shift = max(bucket // _HALF - 1, 0)
    return ((bucket - shift * _HALF + 1) << shift) - 1
