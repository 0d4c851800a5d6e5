"""Who is erased is left out of everything that is made again, and nobody else is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streams.dead_letters import Headers
from streams.event_time import format_instant
from streams.topics import USER_TAGS
from tables.erasures import (
    Erasure,
    Erasures,
    digest_of,
    erased_before,
    names_user,
    needles,
    note_record,
    rewrite_span,
    stored_erasures,
)
from tables.profiles import Row, RowCodec, decode_span, encode_kept, encode_spans
from tests.support.builders import a_record

CODEC = RowCodec(USER_TAGS)
USERS = ("ann", "anna", "bob", "\x01", "a\x01", "żółć")
KEPT = ("PL", "PC", "o", 1, "b", "c", 2)
BOUND = 50


def flat(rows: list[tuple[str, int]]) -> list[bytes]:
    """Return keys and values in turn of rows of (user, offset)."""
    return [
        part
        for number, (user, offset) in enumerate(rows)
        for part in CODEC.encode(Row(user, ("VIEW", "BUY")[number % 2], offset, offset, format_instant(offset), KEPT))
    ]


def erasures_of(*users: str, before: int = BOUND) -> Erasures:
    erased = Erasures()
    erased.add(Erasure(digest_of(user.encode()), before) for user in users)
    return erased


@given(st.lists(st.sampled_from(USERS), max_size=30), st.sets(st.sampled_from(USERS)), st.integers(0, 100))
def test_what_is_left_is_the_rows_of_others_and_later_ones(users: list[str], gone: set[str], first: int) -> None:
    """The bound is the source's end when the erasure began: who comes back after it is a new user."""
    rows = [(user, first + number) for number, user in enumerate(users)]
    expected = [(user, offset) for user, offset in rows if user not in gone or offset >= BOUND]
    kept = erasures_of(*gone).kept_rows(flat(rows))
    assert [(row.user, row.offset) for row in map(CODEC.decode, kept[::2], kept[1::2])] == expected


@given(st.lists(st.sampled_from(USERS), min_size=1, max_size=30), st.sets(st.sampled_from(USERS)))
def test_a_span_is_written_anew_only_where_it_holds_an_erased_row(users: list[str], gone: set[str]) -> None:
    """Its key stays, so the newest version of a key is all that compaction leaves."""
    rows = flat([(user, offset) for offset, user in enumerate(users)])
    ((_, value),) = encode_spans(rows)
    rewritten = rewrite_span(value, erasures_of(*gone))
    assert (rewritten is None) == (not gone & set(users))
    if rewritten is not None:
        assert {CODEC.decode(*pair).user for pair in decode_span(rewritten)} == set(users) - gone
        assert rewrite_span(rewritten, erasures_of(*gone)) is None
        assert any(needle in value for needle in needles(gone, USER_TAGS.kinds))


def test_nothing_is_looked_at_past_the_highest_bound() -> None:
    """Counting costs the same as before once the erased bucket is closed: no digest is made."""
    rows = flat([("ann", BOUND)])
    assert erasures_of("ann").kept_rows(rows) is rows
    assert Erasures().kept_rows(rows) is rows


class StoreOfNotes:
    """What a store of rows would say of one partition."""

    def __init__(self, rows: dict[bytes, bytes]) -> None:
        self.rows = rows

    def scan(self, partition: int, low: bytes, high: bytes) -> list[tuple[bytes, bytes]]:
        return [(key, value) for key, value in sorted(self.rows.items()) if low <= key < high]

    def get(self, key: bytes) -> bytes | None:
        return self.rows.get(key)


def test_an_erasure_comes_back_from_the_changelog_as_it_went_out() -> None:
    """A worker that recovers needs no rule for it: it is a span of one row."""
    erasures = {Erasure(digest_of(user.encode()), before) for before, user in enumerate(USERS)} | {Erasure(b"\xff" * 16, 7)}
    rows = dict(pair for erasure in erasures for pair in decode_span(note_record(erasure.row)[1]))
    store = StoreOfNotes(rows | {b"\xffmisrouted": b"", **dict([Erasure(b"s" * 16, 1).swept])})
    assert set(stored_erasures(store, 0)) == erasures
    assert erased_before(store, "bob") == USERS.index("bob")
    assert erased_before(store, "nobody") == erased_before(None, "bob") == 0


def test_of_two_erasures_of_a_user_the_later_bound_holds() -> None:
    """A replayed erasure of an earlier one must bring nothing back."""
    erased = erasures_of("ann", before=9)
    erased.add([Erasure(digest_of(b"ann"), 5)])
    assert erased.covers(b"ann", 8)
    assert erased.all() == [Erasure(digest_of(b"ann"), 9)]


def is_of(key: bytes | None, value: bytes | None, headers: Headers = ()) -> bool:
    return names_user(key, value, headers, {b"ann", "żółć".encode()}, stream=USER_TAGS)


def test_a_dead_letter_is_the_users_where_it_says_so() -> None:
    """Whatever was wrong with it: its key, its field, its field in damaged JSON, a row that Postgres or we refused."""
    assert is_of(b"ann", None)
    assert is_of(None, a_record(cookie="ann", action="NONE"))
    assert is_of(None, rb'{"cookie":"\u0061nn"}')
    assert is_of(b"k", b'{"time":"x","cookie" : "ann", ...')
    row = flat([("ann", 3)])
    assert is_of(row[0], row[1])
    assert is_of(b"\0" * 16, encode_kept(flat([("bob", 1), ("ann", 3)])))
    assert is_of(None, b"", [("user", b"ann")])
    assert is_of(None, a_record(cookie="żółć")[:-1])


def test_a_dead_letter_that_only_resembles_is_not_the_users() -> None:
    """A short name is in many texts: others' dead letters must stay."""
    assert not is_of(b"anna", a_record(cookie="anna", origin="ann", country="ann"))
    assert not is_of(None, b"ann")
    assert not is_of(None, b'["ann"]')
    assert not is_of(flat([("joann", 3)])[0], b"\xff")
    assert not is_of(None, None)
    assert not names_user(b"k", b'{"cookie":"ann"}', (), set(), stream=USER_TAGS)
