"""Remember the newest events that Kafka acknowledged, so that one sent again is known; the worker decides for all others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from gateway.events_records import Records

Identified = str
"""User and id of an event, NUL between them, which no user holds."""
USER_LENGTH_KEPT_MAX = 64
"""Of a longer user a digest stands: what is remembered must not grow by the texts of others."""
USER_DIGEST_BYTES = 16


@dataclass(frozen=True, slots=True)
class Sorted:
    """What a body's records are, by index.

    Attributes:
        fresh: to be written.
        known: acknowledged before, or standing in the body before.
        conflicts: how many of the known ones said something else than the first, which wins.
    """

    fresh: list[int]
    known: list[int]
    conflicts: int


class RecentEvents:
    """User, id and a digest of the newest events, at least half of *events_max* and never more.

    Two generations instead of an order of use: what is forgotten is a whole generation, and one operation takes many ids.
    A digest only tells whether two events with one id are equal.
    """

    def __init__(self, events_max: int) -> None:
        self._generation_max = max(1, events_max // 2)
        self._young: dict[Identified, int] = {}
        self._old: dict[Identified, int] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def remember(self, records: Records, indices: Iterable[int] | None = None) -> None:
        """Note records that Kafka acknowledged: all, or those at *indices*; what is known of one already stays."""
        chosen = records if indices is None else records.keep(indices)
        keys = identified(chosen)
        if len(self._young) + len(keys) <= self._generation_max and self._young.keys().isdisjoint(keys):
            self._young.update(zip(keys, chosen.digests, strict=True))
            return
        for key, digest in zip(keys, chosen.digests, strict=True):
            if len(self._young) >= self._generation_max:
                self._old, self._young = self._young, {}
            self._young.setdefault(key, digest)

    def sort(self, records: Records) -> Sorted:
        """Tell the records that are new from those that were acknowledged before, or stand in the body twice."""
        keys = identified(records)
        in_body = set(keys)
        repeated = len(in_body) < len(keys)
        # Asked of the views: a set would go through all of a dict, at 1 ms and more for each request.
        if not repeated and self._young.keys().isdisjoint(in_body) and self._old.keys().isdisjoint(in_body):
            return Sorted(list(range(len(keys))), [], 0)
        return self._sort(keys, records.digests)

    def _sort(self, keys: Sequence[Identified], digests: Sequence[int]) -> Sorted:
        fresh: list[int] = []
        known: list[int] = []
        conflicts = 0
        in_body: dict[Identified, int] = {}
        for index, (key, digest) in enumerate(zip(keys, digests, strict=True)):
            first = next((seen[key] for seen in (self._young, self._old, in_body) if key in seen), None)
            if first is None:
                in_body[key] = digest
                fresh.append(index)
            else:
                known.append(index)
                conflicts += first != digest
        return Sorted(fresh, known, conflicts)


def identified(records: Records) -> list[Identified]:
    """Return what identifies each record's event; worked out once."""
    users = records.users
    if len(records.identities) == len(users):
        return records.identities
    if users and max(map(len, users)) > USER_LENGTH_KEPT_MAX:
        users = [user if len(user) <= USER_LENGTH_KEPT_MAX else _shortened(user) for user in users]
    records.identities = list(map("\0".join, zip(users, records.ids, strict=True)))
    return records.identities


def _shortened(user: str) -> str:
    """Return a text for a long user that no user is called."""
    return "\0" + blake2b(user.encode(), digest_size=USER_DIGEST_BYTES).hexdigest()
