"""What counts as stuck: something that should move, has not, and Kafka is there."""

from __future__ import annotations

from agents.watchdog import Inside, Outside, Stalls, waits
from streams.topics import BUCKET_OFFSETS

BUCKET = BUCKET_OFFSETS


def inside(*, ready: bool = True, recovered: int = 0, member: str = "me", **reached: int) -> Inside:
    return Inside(ready, recovered, member, {("tags", int(name[1:])): offset for name, offset in reached.items()})


def outside(*, members: tuple[str, ...] = ("me", "other"), committed: int = 0, **ends: int) -> Outside:
    offsets = {("tags", int(name[1:])): offset for name, offset in ends.items()}
    return Outside(frozenset(members), offsets, dict.fromkeys(offsets, committed))


def test_worker_that_has_counted_everything_waits_for_nothing() -> None:
    """An idle night must not restart it; commits are rounded down to a bucket's start, so they lie behind for good."""
    assert waits(inside(p0=BUCKET + 5, p1=0), outside(p0=BUCKET + 5, p1=0, committed=BUCKET)) == {}


def test_worker_without_partitions_waits_for_nothing() -> None:
    """More workers than partitions is a fair way to run: the idle one takes over."""
    assert waits(inside(), outside(p0=900)) == {}


def test_worker_that_never_committed_waits_once_a_bucket_is_full() -> None:
    """The group has no offset of a partition before its first commit."""
    assert waits(inside(p0=BUCKET), Outside(frozenset({"me"}), {("tags", 0): BUCKET}, {})) == {
        "the commit of partition 0 of tags stays at offset 0": 0
    }


def test_each_thing_that_should_move_is_named() -> None:
    """The line is all that the engineer on call gets."""
    found = waits(inside(p0=10, p1=2 * BUCKET), outside(members=("other",), p0=12, p1=2 * BUCKET, committed=0))
    assert found == {
        "its group does not know it": 0,
        "partition 0 of tags is not read on from offset 10": 10,
        "the commit of partition 1 of tags stays at offset 0": 0,
    }


def test_recovery_that_moves_is_no_stall_and_one_that_does_not_is() -> None:
    """A million events may take minutes; a hung recovery takes for ever (#176)."""
    stalls = Stalls()
    for now_s, recovered in ((0.0, 0), (50.0, 1_000), (100.0, 2_000), (160.0, 2_000)):
        stalls.update(waits(inside(ready=False, recovered=recovered), outside(p0=5)), now_s)
    assert stalls.longest(170.0) == (70.0, "it is not ready")


def test_one_partition_that_stands_is_seen_beside_others_that_move() -> None:
    """#596: after a recovery one partition may stop while all others go on."""
    stalls = Stalls()
    for now_s in range(0, 100, 10):
        stalls.update(waits(inside(p0=now_s, p1=7), outside(p0=1_000, p1=9)), float(now_s))
    assert stalls.longest(90.0) == (90.0, "partition 1 of tags is not read on from offset 7")


def test_partitions_of_one_number_are_told_apart_by_their_topics() -> None:
    """A worker reads two topics; the one that stands must not look like the other, which moves."""
    stalls = Stalls()
    for now_s in (0.0, 50.0):
        reached = {("tags", 0): int(now_s), ("events", 0): 7}
        stalls.update(
            waits(Inside(True, 0, "me", reached), Outside(frozenset({"me"}), {("tags", 0): 99, ("events", 0): 8}, {})), now_s
        )
    assert stalls.longest(90.0) == (90.0, "partition 0 of events is not read on from offset 7")


def test_outage_of_kafka_sets_the_time_back() -> None:
    """Nobody gets on without Kafka, and a restart would cost the answers that a worker can still give."""
    stalls = Stalls()
    stalls.update({"it is not ready": 0}, 0.0)
    stalls.update({}, 100.0)
    stalls.update({"it is not ready": 0}, 110.0)
    assert stalls.longest(120.0) == (10.0, "it is not ready")
