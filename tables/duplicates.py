"""Tell a submission from the same one sent again: the rule, and what a worker remembers for it.

The rule is a function of the log alone: **a record is a duplicate if a first one of the same user and id lies at a smaller
offset of its partition, and came at most so long before it** (`Stream.duplicates_within_s`, by the records' own timestamps,
which are Kafka's). A record that is no duplicate is a first one. So every life of a worker that reads a span again decides as
the one before did, and blocks stay functions of their keys; docs/decisions/0023 has the proof.

Two kinds of rows lie among those of the users, in the same table, spans and writes; both begin with a byte that no user does:

- of a first one its place in the *index*: `0xFE user NUL id`, then timestamp and offset inverted, the newest first;
- of a duplicate that it is one: `0xFE 0xFF`, then the offset inverted. A bucket may stay open for longer than a first one is
  kept. Whoever reads it again goes by these rows, and finds no more evidence than there was before for the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

from streams.codecs import Decoded
from streams.topics import BUCKET_OFFSETS, Stream
from tables.erasures import Erasures
from tables.profiles import DUPLICATE, INDEX, INVERSE, ORDER

INVERSE_OF_TIMES = b"\x7f\xff"
"""What every inverted timestamp begins with, and no UTF-8 goes on with: keys of longer ids are not among those of an id."""
TIMESTAMP_MS_MAX = (1 << 47) - 1
_OFFSET_BYTES = ORDER.size // 2

Sighting = tuple[int, int]
"""Timestamp and offset of a first one."""


class Judged(NamedTuple):
    """What was decided of a run.

    Attributes:
        firsts: the events that count.
        entries: the key of one row for each event, by rising offset: its place in the index, or that it is a duplicate.
    """

    firsts: Decoded
    entries: list[bytes]


class Submissions:
    """The submissions of one partition, as far as its rows need not tell of them yet: those of the buckets under way."""

    def __init__(self, stream: Stream, erased: Erasures) -> None:
        self._user_of, self._id_of = attrgetter(stream.key), attrgetter(stream.id)
        self._within_ms = stream.duplicates_within_s * 1000
        self._erased = erased
        self._buckets: dict[int, dict[bytes, Sighting]] = {}
        self._duplicates: frozenset[int] = frozenset()
        self._known = 0
        self._repeated: list[int] = []

    def begin(self, duplicates: Iterable[int], *, known: int) -> None:
        """Begin a new epoch at a bucket's start.

        Args:
            duplicates: offsets from there on of which the store says that they are.
            known: see `tables.partitions.PartitionState`.
        """
        self._buckets = {}
        self._duplicates = frozenset(duplicates)
        self._known = known
        self._repeated = []

    def judge(self, decoded: Decoded, records: Sequence[Any], base: int, cursor: Any) -> Judged:
        """Decide of the events of one run, which lie in one bucket.

        Args:
            records: with `.timestamp` (milliseconds), of contiguous offsets from *base* on.
            cursor: RocksDB's, over the rows; made since the last await, so that it knows all that was stored.
        """
        firsts = Decoded([], [], [], [])
        entries: list[bytes] = []
        for offset, event, text, at_ms in zip(*decoded, strict=True):
            user = self._user_of(event).encode()
            head = b"%b%b\0%b" % (INDEX, user, self._id_of(event).encode())
            came_ms = min(max(0, records[offset - base].timestamp), TIMESTAMP_MS_MAX)
            if offset in self._duplicates or self._is_repeated(head, user, (came_ms, offset), cursor):
                entries.append(duplicate_key(offset))
                self._repeated.append(offset)
                continue
            self._buckets.setdefault(offset // BUCKET_OFFSETS, {})[head] = came_ms, offset
            entries.append(head + ORDER.pack(INVERSE - came_ms, INVERSE - offset))
            for column, value in zip(firsts, (offset, event, text, at_ms), strict=True):
                column.append(value)  # type: ignore[attr-defined] # made as lists above
        return Judged(firsts, entries)

    def _is_repeated(self, head: bytes, user: bytes, place: Sighting, cursor: Any) -> bool:
        """Say whether a first one came shortly before.

        The newest first one is the latest by timestamp too, else it would have been a duplicate itself: only it is looked at.
        What lies in earlier buckets and is erased is no evidence: a life that begins after them would not find it either.
        The record's own place says that an earlier life took it for a first one. Where counting lagged for so long that rows
        were gone, that life may have known less than this one, whose disk still has them: it stays as it was.
        """
        came_ms, offset = place
        bucket = offset // BUCKET_OFFSETS
        for number in sorted(self._buckets, reverse=True):
            found = self._buckets[number].get(head)
            if found is not None:
                return self._is_shortly_before(found, came_ms) and (number == bucket or not self._erased.covers(user, found[1]))
        newest = next((stored for stored in _stored(cursor, head) if stored[1] <= offset), None)
        if newest is None or newest[1] == offset:
            return False
        return self._is_shortly_before(newest, came_ms) and not self._erased.covers(user, newest[1])

    def _is_shortly_before(self, first: Sighting, came_ms: int) -> bool:
        return first[0] >= came_ms - self._within_ms

    def take_repeated(self) -> tuple[int, int]:
        """Return how many duplicates were found since the last call, and how many of them no earlier life has judged."""
        repeated, self._repeated = self._repeated, []
        return len(repeated), sum(offset >= self._known for offset in repeated)

    def stored(self, end: int) -> None:
        """Forget the buckets whose rows, all before the offset *end*, are in the store."""
        for number in [number for number in self._buckets if number < end // BUCKET_OFFSETS]:
            del self._buckets[number]


def _stored(cursor: Any, head: bytes) -> Iterator[Sighting]:
    """Yield what the index has of a user and id, the latest timestamp first."""
    prefix = head + INVERSE_OF_TIMES
    cursor.seek(prefix)
    while cursor.valid():
        key = cursor.key()
        if not key.startswith(prefix):
            return
        inverse_ms, inverse_offset = ORDER.unpack(key[-ORDER.size :])
        yield INVERSE - inverse_ms, INVERSE - inverse_offset
        cursor.next()


def duplicate_key(offset: int) -> bytes:
    """Return the key of the row that says that a record is a duplicate; its value is empty."""
    return DUPLICATE + (INVERSE - offset).to_bytes(_OFFSET_BYTES, "big")


def stored_duplicates(store: Any, partition: int, first: int) -> list[int]:
    """Return the offsets from *first* on that are judged to be duplicates, by a store of rows."""
    scan = store.keys_between(partition, DUPLICATE, duplicate_key(first) + b"\0")
    return [INVERSE - int.from_bytes(key[-_OFFSET_BYTES:], "big") for key in scan]


def with_entries(rows: Iterator[bytes], entries: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the keys and values of all rows of a run in turn: of first ones both, of duplicates that they are.

    Args:
        rows: keys and values in turn, one row for each place in the index; shape (2 * first ones,).
    """
    for entry in entries:
        if not entry.startswith(DUPLICATE):
            yield next(rows)
            yield next(rows)
        yield entry
        yield b""
