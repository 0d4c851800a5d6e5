"""Limit what each identity may send: the generic cell rate algorithm, for events and for bytes.

Where a second's worth is left, a request takes its cost from it. One that costs more than that is taken whole when nothing is
owed, and is then paid off: the rate holds over time, and no batch is too large for ever. Each gateway counts for itself.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from math import ceil

from gateway.answers import Headers
from gateway.auth.identity import Identity, Quota, RefusalReason, Refused

IDENTITIES_MAX = 100_000
"""Identities remembered; past it those are forgotten that have not sent for longest."""
BURST_S = 1.0
"""What an identity may send in a second, it may send at once."""
ROUNDING_S = 1e-6
NO_QUOTA = Quota(0.0, 0.0)


class _Bucket:
    """What one identity has used of its quota: from when on nothing is owed, in monotonic seconds."""

    __slots__ = ("bytes_free_at_s", "events_free_at_s")

    def __init__(self) -> None:
        self.events_free_at_s = 0.0
        self.bytes_free_at_s = 0.0


class Quotas:
    """What each identity has sent."""

    def __init__(self, default: Quota = NO_QUOTA, *, clock: Callable[[], float]) -> None:
        """Limit those without a quota of their own to *default*; *clock* tells monotonic seconds."""
        self._default = default
        self._clock = clock
        self._buckets: OrderedDict[tuple[str, str], _Bucket] = OrderedDict()

    def take(self, identity: Identity, *, events: int, size_bytes: int) -> Headers:
        """Count a request of so many events and bytes; return the headers that tell what is left of events.

        Raises:
            Refused: 429; nothing is counted.
        """
        quota = identity.quota or self._default
        events_per_s = self._default.events_per_s if quota.events_per_s is None else quota.events_per_s
        bytes_per_s = self._default.bytes_per_s if quota.bytes_per_s is None else quota.bytes_per_s
        if not events_per_s and not bytes_per_s:
            return []
        bucket, now_s = self._bucket_of(identity), self._clock()
        events_free_at_s = _taken(bucket.events_free_at_s, now_s, cost=events, per_s=events_per_s or 0.0, noun="events")
        bucket.bytes_free_at_s = _taken(bucket.bytes_free_at_s, now_s, cost=size_bytes, per_s=bytes_per_s or 0.0, noun="bytes")
        bucket.events_free_at_s = events_free_at_s
        return _headers(events_per_s, events_free_at_s - now_s) if events_per_s else []

    def _bucket_of(self, identity: Identity) -> _Bucket:
        who = (identity.scheme, identity.name)
        bucket = self._buckets.get(who)
        if bucket is None:
            bucket = self._buckets[who] = _Bucket()
            if len(self._buckets) > IDENTITIES_MAX:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(who)
        return bucket


def _taken(free_at_s: float, now_s: float, *, cost: float, per_s: float, noun: str) -> float:
    """Return from when on nothing is owed after *cost*; 0 a second: no limit."""
    if not per_s:
        return free_at_s
    free_at_s = max(free_at_s, now_s)
    cost_s = cost / per_s
    early_s = free_at_s + cost_s - now_s - max(BURST_S, cost_s)
    if early_s > ROUNDING_S:
        wait_s = ceil(early_s)
        raise Refused(
            429,
            f"more than {per_s:g} {noun} a second",
            wait_s,
            reason=RefusalReason.QUOTA,
            headers=_headers(per_s, free_at_s - now_s),
        )
    return free_at_s + cost_s


def _headers(per_s: float, owed_s: float) -> Headers:
    """Return the limit, what is left of it, and in how many seconds nothing will be owed."""
    left = max(0, int((BURST_S - owed_s) * per_s + ROUNDING_S))
    told = {b"limit": int(per_s * BURST_S), b"remaining": left, b"reset": ceil(owed_s - ROUNDING_S)}
    return [(b"x-ratelimit-" + name, b"%d" % value) for name, value in told.items()]
