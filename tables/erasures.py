"""What was erased of a partition: for whom, and before which source offset. Kept beside the rows, never by name.

An erasure says that no row of a user with a source offset before `before` may exist any more. It lies in the rows' changelog,
so whoever recovers the partition learns of it, and in the store beside the rows. From the moment the owner knows it, rows that
a bucket would make again from the source are left out, and views show none. So a record of rows is a pure function of its key
and of the erasures of its partition; an erased user's rows come back by no replay, rebalance or recovery.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple, TypeVar

import msgspec

from streams.topics import Stream
from tables.profiles import INDEX, INVERSE, ORDER, decode_span, encode_kept, user_of

ERASED_PREFIX = b"\xfferased"
"""No user's key starts with 0xFF."""
SWEPT_PREFIX = b"\xffswept"
"""Local: the rows of this erasure are out of this store. Not in the changelog."""
DIGEST_BYTES = 16
_PERSON = b"tally-erased"
_OFFSET_BYTES = 8
T = TypeVar("T", bound=tuple[Any, Any])


class Erasure(NamedTuple):
    """One erasure of one partition.

    Attributes:
        digest: of the user; `digest_of`.
        before: source offset; rows of the user below it are erased, later ones are a new user's.
    """

    digest: bytes
    before: int

    @property
    def row(self) -> tuple[bytes, bytes]:
        """Key and value in the store."""
        return ERASED_PREFIX + self.digest, self.before.to_bytes(_OFFSET_BYTES, "big")

    @property
    def swept(self) -> tuple[bytes, bytes]:
        """Key and value that say, in one store, that its rows are out."""
        return SWEPT_PREFIX + self.digest, self.row[1]


def digest_of(user: bytes) -> bytes:
    """Return what an erasure knows of a user: enough to know the user again, not to name them.

    Whoever has the cookie can tell that it was erased; that is the erasure's purpose.
    """
    return blake2b(user, digest_size=DIGEST_BYTES, person=_PERSON).digest()


class Erasures:
    """The erasures of one partition, as the owner remembers them; empty for nearly everybody, and then free of cost."""

    __slots__ = ("_before", "highest")

    def __init__(self) -> None:
        self._before: dict[bytes, int] = {}
        self.highest = 0

    def add(self, erasures: Iterable[Erasure]) -> None:
        """Remember erasures; of one user the highest bound holds."""
        for erasure in erasures:
            self._before[erasure.digest] = max(erasure.before, self._before.get(erasure.digest, 0))
            self.highest = max(self.highest, erasure.before)

    def all(self) -> list[Erasure]:
        """Return what is remembered."""
        return [Erasure(digest, before) for digest, before in self._before.items()]

    def knows(self, user: bytes) -> bool:
        """Say whether anything of a user is erased."""
        return digest_of(user) in self._before

    def has(self, erasure: Erasure) -> bool:
        """Say whether an erasure, or a higher one of its user, is remembered."""
        return self._before.get(erasure.digest, -1) >= erasure.before

    def covers(self, user: bytes, offset: int) -> bool:
        """Say whether the event of a user at a source offset is erased."""
        return offset < self.highest and offset < self._before.get(digest_of(user), 0)

    def kept_rows(self, rows: list[bytes]) -> list[bytes]:
        """Return the rows that are not erased; keys and values in turn, by rising source offset."""
        if not rows or offset_of(rows[0]) >= self.highest:
            return rows
        pairs = zip(rows[::2], rows[1::2], strict=True)
        return [part for pair in pairs if not self.covers(user_of(pair[0]), offset_of(pair[0])) for part in pair]

    def kept_refused(self, refused: list[T], *, user_path: str) -> list[T]:
        """Return the refused records, each with `.offset` and its record, that are not an erased user's."""
        if not self.highest:
            return refused
        return [
            pair
            for pair in refused
            if not any(self.covers(user, pair[0].offset) for user in users_in(pair[1].key, pair[1].value, user_path))
        ]


def users_in(key: bytes | None, value: bytes | None, user_path: str) -> Iterator[bytes]:
    """Yield the users that a record names which need not be an event: its key, and what its JSON has in the user's field."""
    if key:
        yield key
    try:
        found = msgspec.json.decode(value or b"")
        for name in user_path.split("."):
            found = found[name]
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError, IndexError):
        return
    if isinstance(found, str):
        yield found.encode("utf-8", "surrogatepass")


def names_user(
    key: bytes | None,
    value: bytes | None,
    headers: Sequence[tuple[str, bytes | None]],
    users: Collection[bytes],
    *,
    stream: Stream,
) -> bool:
    """Say whether a record that was put aside is of one of *users*.

    It is, where its key, a header or the user's field of its JSON is the user; where damaged JSON has the user in that field;
    and where key or value hold a row of the user.
    """
    if any(user in users for user in users_in(key, value, stream.key)) or any(held in users for _, held in headers):
        return True
    if key and user_of(key) in users and key.startswith(tuple(head for user in users for head in heads_of(user))):
        return True
    if value and _holds_row_of(value, users, stream):
        return True
    name = re.escape(stream.key.rpartition(".")[2].encode())
    quoted = b"|".join(re.escape(msgspec.json.encode(user.decode("utf-8", "replace"))) for user in users)
    return bool(users and value and re.search(rb'"%b"\s*:\s*(?:%b)' % (name, quoted), value))


def _holds_row_of(value: bytes, users: Collection[bytes], stream: Stream) -> bool:
    """Say whether the value of a changelog record, damaged or not, holds a row of one of *users*."""
    try:
        return any(user_of(row_key) in users for row_key, _ in decode_span(value))
    except ValueError:
        heads = [user + b"\0" + code for user in users for code in stream.kinds.values()]
        return any(head in value for head in (*heads, *(INDEX + user + b"\0" for user in users)))


def heads_of(user: bytes) -> tuple[bytes, bytes]:
    """Return what the keys of a user's rows begin with: those of the profile, and the places of submissions in the index."""
    return user + b"\0", INDEX + user + b"\0"


def note_record(row: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
    """Return the changelog record of a row that is none of a user: a span of its own, so that recovery needs no rule for it."""
    return row[0], encode_kept(row)


def stored_erasures(store: Any | None, partition: int, *, prefix: bytes = ERASED_PREFIX) -> list[Erasure]:
    """Return the erasures that a store of rows has of a partition; with the prefix `SWEPT_PREFIX`, those whose rows are out."""
    if store is None:
        return []
    found = store.scan(partition, prefix, prefix + b"\xff" * (DIGEST_BYTES + 1))
    return [Erasure(key[len(prefix) :], int.from_bytes(value, "big")) for key, value in found]


def erased_before(database: Any | None, user: str) -> int:
    """Return the source offset before which a store's rows of a user are erased; 0 for nearly everybody."""
    if database is None:
        return 0
    value = database.get(ERASED_PREFIX + digest_of(user.encode()))
    return 0 if value is None else int.from_bytes(value, "big")


def rewrite_span(value: bytes, erasures: Erasures) -> bytes | None:
    """Return a span without its erased rows, which may leave none; None when it has no erased row.

    Raises:
        ValueError: the bytes are not those of a span.
    """
    rows = [part for pair in decode_span(value) for part in pair]
    kept = erasures.kept_rows(rows)
    return None if len(kept) == len(rows) else encode_kept(kept)


def needles(users: Collection[str], kinds: Mapping[str, bytes]) -> list[bytes]:
    """Return what is in the bytes of a span if it has a row of one of *users*."""
    return [user.encode() + b"\0" + code for user in users for code in kinds.values()]


def offset_of(row_key: bytes) -> int:
    """Return the source offset of a row."""
    return INVERSE - int.from_bytes(row_key[-ORDER.size // 2 :], "big")
