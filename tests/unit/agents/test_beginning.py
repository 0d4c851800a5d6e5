"""Where counting begins: never twice, never past a loss without saying so."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from agents.beginning import Beginning, beginning_at
from streams.errors import LostEventsError
from streams.topics import BUCKET_OFFSETS as BUCKET

FRESH = Beginning(seed=False)
CASES = {
    "the first start ever": (0, None, 0, None, FRESH),
    "the first start ever, of a log that has forgotten its beginning": (5000, None, 5000, None, FRESH),
    "a restart before the first commit": (0, None, 0, 700, FRESH),
    "a restart at a commit": (BUCKET, BUCKET, 0, BUCKET + 700, FRESH),
    "a restart at a commit with a lost disk and a changelog that has forgotten": (BUCKET, BUCKET, 0, None, FRESH),
    "the log starts exactly at the commit": (BUCKET, BUCKET, BUCKET, BUCKET + 700, FRESH),
    "the log starts inside the open bucket": (BUCKET + 100, BUCKET, BUCKET + 100, BUCKET + 700, Beginning(True, BUCKET + 699)),
    "it starts right behind what is counted": (BUCKET + 100, BUCKET, BUCKET + 100, BUCKET + 100, Beginning(True, BUCKET + 99)),
    "the log starts inside the first bucket, nothing committed": (100, None, 100, 700, Beginning(True, 699)),
    "the log starts inside a later bucket than the commit": (
        3 * BUCKET + 5, BUCKET, 3 * BUCKET + 5, 3 * BUCKET + 9, Beginning(True, 3 * BUCKET + 8),
    ),
    "the log starts at a bucket's start past the commit, all before it counted": (
        2 * BUCKET, BUCKET, 2 * BUCKET, 2 * BUCKET + 50, FRESH,
    ),
    "counted up to a bucket's end, which is where the log starts": (2 * BUCKET, BUCKET, 2 * BUCKET, 2 * BUCKET, FRESH),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_counting_begins(name: str) -> None:
    """A19."""
    position, committed, log_start, counted, expected = CASES[name]
    found = beginning_at(position, committed=committed, log_start=log_start, counted=counted, accept_lost=False)
    assert found.seed == expected.seed
    if expected.seed:
        assert found == expected


@pytest.mark.parametrize(
    ("committed", "counted"), [(BUCKET, BUCKET + 99), (BUCKET, None), (None, 99), (None, 0), (0, 10)], ids=str
)
def test_events_that_nobody_counted_and_nobody_can_read_stop_the_start(committed: int | None, counted: int | None) -> None:
    """A19. The message says what is gone and how to go on without it."""
    with pytest.raises(LostEventsError, match=f"before offset {BUCKET + 100}.*TALLY_WORKER_ACCEPT_LOST_EVENTS=true"):
        beginning_at(BUCKET + 100, committed=committed, log_start=BUCKET + 100, counted=counted, accept_lost=False)


@pytest.mark.parametrize(
    ("counted", "expected"),
    [(BUCKET + 50, Beginning(True, BUCKET + 49)), (BUCKET, FRESH), (700, FRESH), (None, FRESH)],
    ids=["the stored part of the bucket stays", "nothing of it is stored", "an earlier one is stored", "nothing at all is"],
)
def test_a_loss_that_was_accepted_keeps_what_is_stored_of_the_bucket(counted: int | None, expected: Beginning) -> None:
    found = beginning_at(BUCKET + 100, committed=BUCKET, log_start=BUCKET + 100, counted=counted, accept_lost=True)
    assert found.seed == expected.seed and (not found.seed or found == expected)


offsets = st.integers(0, 5 * BUCKET)


@given(st.none() | st.integers(0, 5).map(lambda bucket: bucket * BUCKET), offsets, st.none() | offsets, st.booleans())
def test_every_event_is_counted_once_or_the_start_fails(
    committed: int | None, log_start: int, counted: int | None, accept_lost: bool
) -> None:
    """Whatever the three say: what the bucket is seeded with, and what is folded after it, never overlap and leave no hole."""
    assume(counted is None or committed is None or counted >= committed)  # a commit never passes what is stored
    position = max(committed or 0, log_start)
    try:
        begin = beginning_at(position, committed=committed, log_start=log_start, counted=counted, accept_lost=accept_lost)
    except LostEventsError:
        assert not accept_lost and log_start > max(counted or 0, committed or 0)
        return
    bucket_start = position // BUCKET * BUCKET
    first_folded = max(position, begin.through + 1) if begin.seed else position
    stored_to = begin.through + 1 if begin.seed else bucket_start
    first_ever = committed is None and counted is None
    assert begin.seed <= (log_start > bucket_start)  # a bucket that can be read whole is
    assert stored_to <= first_folded
    if not accept_lost and not first_ever:
        assert stored_to >= log_start or first_folded == bucket_start
