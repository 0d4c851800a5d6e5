"""Events on disk: what survives, what has its limits, and who may send what."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from tally_client import Outcome, SpoolError
from tally_client.events import QueuedEvent
from tally_client.ids import new_id
from tally_client.owners import LEASE_S, Owners
from tally_client.spool import Spool

from tests.client.conftest import Opening
from tests.client.fast_clock import FastClock
from tests.client.recording import Recorder
from tests.client.test_queue import NEVER_S, captured


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "events.spool")


def a_spool(path: str, clock: FastClock, *, bytes_max: int = 10_000_000, drop_oldest: bool = False) -> Spool:
    return Spool(path, bytes_max=bytes_max, drop_oldest=drop_oldest, owners=Owners(clock))


def some_events(count: int, clock: FastClock, size: int = 100) -> list[QueuedEvent]:
    return [QueuedEvent(new_id(clock.wall_s()), b'{"text":"%b"}' % (b"x" * size), clock.elapsed_s()) for _ in range(count)]


def ids_of(events: list[QueuedEvent]) -> list[str]:
    return [event.event_id for event in events]


def claimed(spool: Spool, events_max: int = 1_000) -> list[str]:
    return ids_of(list(spool.claim(events_max=events_max, bytes_max=900_000).events))


def test_durable_events_go_through_the_disk_and_leave_it(recorder: Recorder, open_client: Opening, path: str) -> None:
    """They are there before `capture` returns, and no longer once they are delivered."""
    recorder.gate.clear()
    client = open_client(spool=path)
    ids = captured(client, 3, durable=True)
    with sqlite3.connect(path) as connection:
        assert [event_id for (event_id,) in connection.execute("SELECT id FROM events ORDER BY seq")] == ids
    recorder.gate.set()
    assert client.flush()
    assert recorder.kept == set(ids)
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM events").fetchone() == (0,)
    connection.close()


def test_durable_events_wait_for_each_other_too(recorder: Recorder, open_client: Opening, path: str) -> None:
    """A request for each would cost a producer of many more than the disk does; a full batch goes at once."""
    client = open_client(spool=path, durable=True, batch_wait_s=NEVER_S, batch_events_max=3)
    assert client.flush()
    ids = captured(client, 2)
    assert client.flush()
    ids += captured(client, 3)
    client.wait_for(lambda: len(recorder.kept) == 5)
    assert [seen.ids for seen in recorder.seen] == [ids[:2], ids[2:]]


def test_a_lone_durable_event_goes_after_a_second(recorder: Recorder, open_client: Opening, path: str) -> None:
    """Nobody needs to flush what is on the disk either."""
    client = open_client(spool=path)
    assert client.flush()
    client.capture(durable=True)
    client.wait_for(lambda: len(recorder.kept) == 1)


def test_only_the_owner_may_read_a_spool(open_client: Opening, path: str) -> None:
    """Events are personal; SQLite's own files beside it take the mode of the first."""
    client = open_client(spool=path, durable=True)
    client.capture()
    files = {file.name: file.stat().st_mode & 0o777 for file in Path(path).parent.iterdir()}
    assert set(files.values()) == {0o600} and len(files) == 3


def test_what_memory_cannot_hold_goes_to_disk(recorder: Recorder, open_client: Opening, path: str) -> None:
    """`spool`: the queue stays as small as it is, and nothing is lost."""
    with recorder.down():
        client = open_client(spool=path, when_full="spool", queue_events_max=5)
        ids = captured(client, 20)
        assert None not in ids
    assert client.flush()
    assert recorder.kept == set(ids)
    assert client.stats() == (20, 20, {}, 0)


def test_what_is_left_at_the_end_is_spooled_and_sent_by_the_next(recorder: Recorder, open_client: Opening, path: str) -> None:
    """Under the same ids, memory's and the disk's alike."""
    with recorder.down():
        first = open_client(spool=path)
        ids = captured(first, 5) + captured(first, 5, durable=True)
        first.close(5.0)
        assert first.stats().failed == {}
    second = open_client(spool=path)
    second.wait_for(lambda: len(recorder.kept) == 10)
    assert recorder.kept == set(ids)


def test_a_spool_has_its_bytes_and_refuses_more(recorder: Recorder, open_client: Opening, path: str) -> None:
    """`drop_newest`: the caller hears of it, the file does not grow."""
    with recorder.down():
        client = open_client(spool=path, durable=True, spool_bytes_max=1_000_000)
        ids = captured(client, 150, properties={"text": "x" * 10_000})
        assert 50 < len([event_id for event_id in ids if event_id]) < 100
        assert client.stats().failed == {"spool_full": ids.count(None)}
        assert Path(path).stat().st_size <= 1_000_000
        assert Path(path + "-wal").stat().st_size <= 6_000_000
    assert client.flush()
    assert recorder.kept == {event_id for event_id in ids if event_id}


def test_a_spool_that_is_full_to_its_last_page_can_be_emptied(clock: FastClock, path: str) -> None:
    """Claiming writes too; a spool that could not do that would hold its events for ever."""
    spool = a_spool(path, clock, bytes_max=600_000)
    waiting = set()
    for event in some_events(10_000, clock, size=50):
        if spool.put([event], durably=False):
            break
        waiting.add(event.event_id)
    assert 500 < len(waiting) < 10_000
    while waiting:
        ids = claimed(spool, 500)
        assert ids
        spool.remove(ids)
        waiting -= set(ids)
    assert claimed(spool) == []
    spool.close()


def test_a_full_spool_makes_room_by_its_oldest(clock: FastClock, path: str) -> None:
    """`drop_oldest`, but never what somebody is sending."""
    spool = a_spool(path, clock, bytes_max=1_000_000, drop_oldest=True)
    events = some_events(150, clock, size=10_000)
    dropped: list[Outcome] = spool.put(events[:20], durably=False)
    under_way = claimed(spool, 10)
    for event in events[20:]:
        dropped += spool.put([event], durably=False)
    kept = {*under_way, *claimed(spool)}
    assert {outcome.code for outcome in dropped} == {"spool_full"}
    assert {outcome.event_id for outcome in dropped} | kept == set(ids_of(events))
    assert kept >= set(under_way) and events[-1].event_id in kept and events[10].event_id not in kept
    spool.close()


def test_spooled_events_grow_old(recorder: Recorder, open_client: Opening, clock: FastClock, path: str) -> None:
    """A day is half of what the server remembers of ids."""
    told: list[Outcome] = []
    with recorder.down():
        first = open_client(spool=path, durable=True)
        captured(first, 3)
        first.close(5.0)
        clock.slept_s += 86_400
    second = open_client(spool=path, on_error=told.append)
    young = second.capture()
    assert second.flush()
    second.wait_for(lambda: len(told) == 3)
    assert [outcome.code for outcome in told] == ["too_old"] * 3
    assert recorder.kept == {young}


def test_a_damaged_record_is_skipped_alone(recorder: Recorder, open_client: Opening, path: str) -> None:
    """One byte that a disk has turned costs one event, and is told."""
    told: list[Outcome] = []
    with recorder.down():
        first = open_client(spool=path, durable=True)
        ids = captured(first, 3, properties={"text": "first"}) + captured(first, 1, properties={"text": "se-cond"})
        first.close(5.0)
    stored = Path(path).read_bytes()
    assert stored.count(b"se-cond") == 1
    Path(path).write_bytes(stored.replace(b"se-cond", b"se\x00cond"))
    second = open_client(spool=path, on_error=told.append)
    second.wait_for(lambda: len(recorder.kept) == 3)
    assert recorder.kept == set(ids[:3])
    second.wait_for(lambda: len(told) == 1)
    assert [(outcome.event_id, outcome.code) for outcome in told] == [(ids[3], "spool_corrupt")]


@pytest.mark.parametrize("turned", [0x01, 0x80], ids=["another letter", "no letter"])
def test_a_damaged_id_costs_one_event_once(clock: FastClock, path: str, turned: int) -> None:
    """The index of ids says something else than the record then: it must not come again, nor hold up what is behind it."""
    spool, events = a_spool(path, clock), some_events(5, clock)
    spool.put(events, durably=True)
    spool.close()
    stored = bytearray(Path(path).read_bytes())
    at = stored.index(events[2].event_id.encode() + events[2].body)
    stored[at + 3] ^= turned
    Path(path).write_bytes(stored)
    after = a_spool(path, clock)
    claim = after.claim(events_max=10, bytes_max=900_000)
    assert [outcome.code for outcome in claim.failed] == ["spool_corrupt"]
    kept = ids_of(events[:2] + events[3:])
    assert ids_of(list(claim.events)) == kept
    assert after.claim(events_max=10, bytes_max=900_000) == ((), ())
    after.remove(kept)
    after.close()
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM events").fetchone() == (0,)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def test_what_is_written_after_another_set_the_file_aside_is_found(clock: FastClock, path: str) -> None:
    """Nobody reads what goes on being written to the old file; what was claimed in it, only its claimer can send."""
    one = a_spool(path, clock)
    one.put(some_events(2, clock), durably=False)
    batch = list(one.claim(events_max=10, bytes_max=900_000).events)
    for suffix in ("", "-wal", "-shm"):
        Path(path + suffix).replace(f"{path}{suffix}.damaged")
    other = a_spool(path, clock)
    theirs, ours = some_events(2, clock)
    other.put([theirs], durably=True)
    one.put([ours], durably=True)
    assert claimed(other) == ids_of([theirs, ours])
    assert one.hold(batch) == batch
    one.remove(ids_of(batch))
    assert one.hold(batch) == []
    one.close()
    assert Path(path + "-wal").exists(), "the log of the new file went with the old one"
    other.close()


def test_a_second_client_of_a_process_keeps_the_locks_of_the_first(clock: FastClock, path: str) -> None:
    """Closing any handle of a file ends all locks that the process has on it; then another process takes the log away."""
    one, two = a_spool(path, clock), a_spool(path, clock)
    one.put(some_events(1, clock), durably=True)
    read = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT * FROM events').fetchall(); c.close()"
    subprocess.run([sys.executable, "-c", read, path], check=True)
    assert Path(path + "-wal").exists()
    one.close()
    two.close()


def test_what_is_done_goes_with_the_next_write(clock: FastClock, path: str) -> None:
    """A disk that refused to remove it, as a full one does, must not have it sent again by this process."""
    spool, events = a_spool(path, clock), some_events(4, clock)
    spool.put(events, durably=True)
    done = claimed(spool, 2)
    blocking = sqlite3.connect(path, isolation_level=None)
    blocking.execute("BEGIN IMMEDIATE")
    with pytest.raises(SpoolError):
        spool.remove(done)
    blocking.execute("ROLLBACK")
    assert blocking.execute("SELECT count(*) FROM events").fetchone() == (4,)
    assert claimed(spool) == ids_of(events[2:])
    assert blocking.execute("SELECT count(*) FROM events").fetchone() == (2,)
    blocking.close()
    spool.close()


def test_a_file_that_is_no_spool_is_set_aside(recorder: Recorder, open_client: Opening, path: str) -> None:
    """Its application must start all the same; what it was can be looked at later."""
    Path(path).write_bytes(b"not a database at all" * 1_000)
    client = open_client(spool=path, durable=True)
    event_id = client.capture()
    assert client.flush()
    assert recorder.kept == {event_id}
    assert Path(path + ".damaged").read_bytes().startswith(b"not a database")


def test_a_spool_that_is_damaged_meanwhile_does_not_reach_the_caller(open_client: Opening, path: str) -> None:
    """`capture` never raises: what the disk does not take is told, and the next is taken again."""
    told: list[Outcome] = []
    client = open_client(spool=path, durable=True, on_error=told.append)
    client.capture()
    assert client.flush()
    with Path(path).open("r+b") as file:
        file.write(b"\xff" * 8_192)
    for name in (path + "-wal", path + "-shm"):
        with Path(name).open("r+b") as file:
            file.write(b"\xff" * 4_096)
    taken = [client.capture() for _ in range(3)]
    assert taken[-1] is not None
    assert {outcome.code for outcome in told} <= {"spool_failed"} and len(told) == taken.count(None)
    assert client.flush()


def test_a_newer_format_is_refused_and_left_alone(clock: FastClock, path: str) -> None:
    """An older client that deletes what it cannot read would lose a newer one's events."""
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 2")
    connection.close()
    with pytest.raises(SpoolError, match="format 2"):
        a_spool(path, clock)
    assert not Path(path + ".damaged").exists()


def test_no_two_claim_the_same_event(clock: FastClock, path: str) -> None:
    """Two processes on one file do not send twice; when one lets go, the other may."""
    one, other = a_spool(path, clock), a_spool(path, clock)
    events = some_events(30, clock)
    one.put(events, durably=False)
    one.put(events[:5], durably=False)
    first, second = claimed(one, 10), claimed(other)
    assert first + second == ids_of(events)
    assert claimed(one) == claimed(other) == []
    one.close()
    assert claimed(other) == first
    other.close()


def test_a_lease_ends_after_a_silence(clock: FastClock, path: str) -> None:
    """A stopped process is taken for dead, and when it wakes it knows that its events are another's."""
    one, other = a_spool(path, clock), a_spool(path, clock)
    events = some_events(4, clock)
    one.put(events, durably=False)
    batch = list(one.claim(events_max=2, bytes_max=900_000).events)
    clock.slept_s += LEASE_S / 2
    assert one.hold(batch) == batch
    assert claimed(other) == ids_of(events[2:])
    clock.slept_s += LEASE_S / 2 + 1
    assert claimed(other) == []
    clock.slept_s += LEASE_S / 2
    assert claimed(other) == ids_of(events[:2])
    in_memory = some_events(1, clock)
    assert one.hold([*batch, *in_memory]) == in_memory
    one.close()
    other.close()


def test_ages_go_by_the_wall_after_a_restart_of_the_machine(
    clock: FastClock, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Elapsed time begins anew with the machine; leases of before are void."""
    before = a_spool(path, clock)
    before.put(some_events(2, clock), durably=False)
    assert len(claimed(before)) == 2
    monkeypatch.setattr("tally_client.owners._text_of", lambda _: "another boot")
    restarted = FastClock()
    restarted.jumped_s = clock.elapsed_s() + 3_600
    after = a_spool(path, restarted)
    events = after.claim(events_max=10, bytes_max=900_000).events
    ages_s = [restarted.elapsed_s() - event.enqueued_at_s for event in events]
    assert len(events) == 2 and all(3_500 < age_s < 4_000 for age_s in ages_s)
    before.close()
    after.close()
