"""Erased users are on no disk and come back by nothing, whatever is killed on the way; everything else is as it was."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from stack.postgres import LocalPostgres
from streams.topics import EVENTS, STREAMS
from tables.erasures import digest_of
from tests.support.cluster import PARTITIONS, a_cluster
from tests.support.comparison import assert_answers_exact, wait_counted
from tests.support.erasing import BACK, EVENTS_EACH, FAULTS, GONE, KILLED, MINUTES, STALE, Scene, databases, profile
from tests.support.eventually import eventually
from tests.support.sinks_process import SinksProcess, select

COUNTED = {"rows", "records", "letters", "sessions", "postgres_events", "postgres_letters"}
NOWHERE: dict[str, list[str]] = {"rocksdb": [], "changelog": [], "dead letters": [], "postgres": []}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, postgres: LocalPostgres) -> Iterator[Scene]:
    """The job, with the users erased from it."""
    with a_cluster(tmp_path_factory.mktemp("erase")) as cluster, databases(postgres) as (dsn, empty):
        scene = Scene(cluster, postgres, dsn)
        scene.empty = empty
        try:
            scene.found["before"] = scene.search(GONE, BACK)
            scene.before = {"letters": scene.letters(), "stored": scene.stored_letters(), "configs": scene.configs()}
            scene.dry_run = scene.run()
            scene.found["dry run"] = scene.search(GONE, BACK)
            scene.erase_with_kills()
            yield scene
        finally:
            scene.worker.stop()
            scene.sinks.stop()


def test_the_search_finds_the_users_before_and_a_dry_run_changes_nothing(scene: Scene) -> None:
    """Else that it finds nothing afterwards would say nothing."""
    assert all(scene.found["before"].values()), scene.found["before"]
    assert scene.found["dry run"].keys() == scene.found["before"].keys() and all(scene.found["dry run"].values())
    assert "nothing is changed" in scene.dry_run
    assert f"postgres: {2 * 2 * EVENTS_EACH + 5} events, {3 * PARTITIONS} dead letters" in scene.dry_run


def test_nothing_of_the_users_is_on_any_disk(scene: Scene) -> None:
    """RocksDB, its log and manifest, a store of a partition that moved away, segments of Kafka, Postgres and its statistics."""
    assert scene.found["erased"] == NOWHERE
    assert scene.search_when_deleted(GONE) == NOWHERE
    assert not list(scene.tables.glob(f"*-{STALE}.db"))


def test_killed_at_every_step_the_next_run_is_exact(scene: Scene) -> None:
    """The command, a worker, the part of Postgres: each was killed by a signal in the middle, or outlived one that was."""
    survived = {"the worker, in the middle"}
    assert {where for where, code in scene.ended.items() if code == 0} == survived
    assert {code for where, code in scene.ended.items() if where not in survived} == {KILLED}
    assert "run it again" not in scene.said


def test_all_aggregates_and_all_profiles_of_others_are_as_they_were(scene: Scene) -> None:
    """What is counted names nobody, and stays: cells of the erased users' events too."""
    oracle = scene.oracle(erased=True)
    wait_counted(scene.worker, oracle, minutes=MINUTES)
    assert_answers_exact(scene.worker, oracle, minutes=MINUTES)
    assert profile(scene.worker, GONE) == (200, {"cookie": GONE, "views": [], "buys": []})
    scene.wait_sinks(scene.dsn)
    (stored,) = select(scene.dsn, "SELECT count(*), sum(price) FROM tally.user_events")
    events = [event for rows in oracle.users.values() for _, _, event in rows]
    assert stored == (len(events), sum(event["product_info"]["price"] for event in events))
    (totals,) = select(scene.dsn, "SELECT sum(event_count), sum(price_sum) FROM tally.minute_aggregates")
    assert totals == (oracle.records, sum(oracle.sums.values()))


def test_an_erasure_is_noted_without_a_name(scene: Scene) -> None:
    """security.md 16: each run left its beginning, killed ones only that, dry ones nothing; whoever has a name can find it."""
    rows = select(scene.dsn, "SELECT id, begun_id, stage, detail FROM tally.audit WHERE action = 'erase'")
    digests = [digest_of(user.encode()).hex() for user in (GONE, BACK)]
    done = {row[1]: row[3] for row in rows if row[2] == "done"}
    assert len(rows) == len(FAULTS) + len(STREAMS) * 2 * 2
    for stream, killed in zip(STREAMS, (len(FAULTS), 0), strict=True):
        detail = {"topic": stream.topic, "users": 2, "digests": digests}
        begun = {row[0] for row in rows if row[2] == "begun" and row[3] == detail}
        assert (len(begun), len(begun & set(done))) == (killed + 2, 2)
    assert all(set(found) == COUNTED and all(isinstance(number, int) for number in found.values()) for found in done.values())
    assert not any(name in str(rows) for name in (GONE, BACK))


def test_rows_that_the_sinks_delete_are_among_those_that_are_gone(scene: Scene) -> None:
    """They delete them before Postgres is asked to, so what is left for it would be told as none."""
    statement = (
        "SELECT d.detail->'postgres_events' FROM tally.audit d JOIN tally.audit b ON b.id = d.begun_id "
        "WHERE d.stage = 'done' AND b.detail->>'topic' = %s ORDER BY d.recorded_at"
    )
    assert "events.v1: postgres: 2 events," in scene.dry_run
    assert [events for (events,) in select(scene.dsn, statement, EVENTS.topic)] == [2, 0]
    assert "events.v1: postgres: 0 events, which were there at the beginning, and 0 dead letters are gone" in scene.said


def test_a_user_who_comes_back_is_kept_from_then_on(scene: Scene) -> None:
    """What Kafka had taken when the erasure began is gone, also what was not counted yet; all that came later stays."""
    statement = "SELECT source_offset FROM tally.user_events WHERE cookie = %s ORDER BY 1"
    scene.wait_sinks(scene.dsn)
    stored = [offset for (offset,) in select(scene.dsn, statement, BACK)]
    assert 20 < len(stored) < len(scene.trickled)
    assert stored == scene.trickled[-len(stored) :]


def test_dead_letters_of_others_are_as_they_were(scene: Scene) -> None:
    """Key, value, headers and time, in Kafka and in Postgres, one that nobody of us wrote too."""
    assert len(scene.before["letters"]) == 2 * PARTITIONS + 1
    assert scene.letters() == scene.before["letters"]
    assert scene.stored_letters() == scene.before["stored"]


def test_the_topics_are_configured_as_they_were(scene: Scene) -> None:
    """Also where a run was killed while it had altered them."""
    assert scene.configs() == scene.before["configs"]


def test_a_worker_whose_disk_was_wiped_brings_nothing_back(scene: Scene) -> None:
    """It reads its changelog, and its open buckets again from the source, which still holds the events."""
    for wipe in (False, True):
        scene.worker.kill()
        if wipe:
            shutil.rmtree(scene.tables)
        scene.worker.start()
        oracle = scene.oracle(erased=True)
        wait_counted(scene.worker, oracle, minutes=MINUTES)
        assert_answers_exact(scene.worker, oracle, minutes=MINUTES)
        assert profile(scene.worker, GONE) == (200, {"cookie": GONE, "views": [], "buys": []})
    assert scene.search_when_deleted(GONE) == NOWHERE


def test_a_database_that_is_filled_anew_has_nothing_of_them(scene: Scene) -> None:
    """The sinks read everything that Kafka has from its start; the log of submissions is that of the source, which has them."""
    scene.sinks.stop()
    sinks = SinksProcess(scene.cluster.servers, scene.empty, scene.cluster.home / "anew.log").start()
    try:
        scene.wait_sinks(scene.empty)
        logged = "SELECT count(*) FROM tally.txn_log WHERE user_id = %s"
        eventually(lambda: select(scene.empty, logged, GONE) == [(1,)], what="the submission in the log")
        scene.erase_submissions_in(scene.empty)
    finally:
        sinks.stop()
        scene.sinks.start()
    count = "SELECT (SELECT count(*) FROM tally.user_events WHERE cookie = %s), (SELECT count(*) FROM tally.user_events)"
    mine, everybody = select(scene.empty, count, GONE)[0]
    assert (mine, everybody) == (0, sum(map(len, scene.oracle(erased=True).users.values())))
    assert scene.search_when_deleted(GONE) == NOWHERE
