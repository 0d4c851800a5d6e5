"""What a foreign producer throws at the topic is a dead letter, and its partition moves on; too much of it ends the worker."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from agents.guard import EXIT_CODE
from agents.observe import ROUTING_SAMPLE_ROWS
from streams.topics import DEAD_LETTERS
from tests.support import bad_records
from tests.support.bad_records import BAD, MIB
from tests.support.builders import a_user_tag, record_bytes
from tests.support.cluster import SOURCE, Cluster, a_cluster
from tests.support.comparison import assert_answers_exact, assert_changelogs_exact, wait_counted
from tests.support.eventually import eventually
from tests.support.oracle import read_topic
from tests.support.tags import some_tags

MINUTES = 12
PARTITION = 2
SEEN_SURELY = 2 * ROUTING_SAMPLE_ROWS
"""So many records in a row that one of them is in the sample, however they come in batches."""
HEADERS = [("trace", b"\x00\xff"), ("reason", b"the producer's own"), ("empty", None)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with a_cluster(tmp_path_factory.mktemp("bad")) as cluster:
        yield cluster


def throw(cluster: Cluster, records: list[tuple[bytes | None, bytes | None]], *, partition: int, headers: Any = ()) -> None:
    """Append records as another's producer would, one at a time."""
    bad_records.throw(cluster.servers, SOURCE, records, partition=partition, headers=headers)
    cluster.ledger[partition].extend([None] * len(records))


def dead_letters(cluster: Cluster) -> dict[tuple[str, str, str], Any]:
    """Return the records of the dead-letter topic by (topic, partition, offset) of their headers."""
    letters = {}
    for record in read_topic(cluster.servers, DEAD_LETTERS):
        headers = dict(record.headers)
        letters[headers["topic"].decode(), headers["partition"].decode(), headers["offset"].decode()] = record
    return letters


def test_whatever_is_thrown_at_the_topic_is_a_dead_letter_and_the_partition_moves_on(cluster: Cluster) -> None:
    """A1, A7.23. Each with reason and position, key and value as they came; the events around it are counted exactly."""
    before, expected = dead_letters(cluster).keys(), {}
    for number, (name, (key, value, reason)) in enumerate(BAD.items()):
        cluster.send(some_tags(number, 3, minutes=MINUTES), partition=PARTITION)
        expected[SOURCE, str(PARTITION), str(len(cluster.ledger[PARTITION]))] = (name, key, value, reason)
        throw(cluster, [(key, value)], partition=PARTITION, headers=HEADERS)
    cluster.send(some_tags(99, 400, minutes=MINUTES))
    worker = cluster.worker().start()
    oracle = cluster.oracle()
    wait_counted(worker, oracle, minutes=MINUTES)
    eventually(lambda: len(dead_letters(cluster)) >= len(before) + len(BAD), what="all dead letters")
    letters = dead_letters(cluster)
    assert letters.keys() - before == expected.keys()
    for place, (name, key, value, reason) in expected.items():
        letter = letters[place]
        headers = dict(letter.headers)
        assert (letter.key, letter.value) == (key, value), name
        assert (headers["reason"], headers["stage"]) == (reason.encode(), b"count"), (name, headers["detail"])
        assert headers["detail"] and (headers["trace"], headers["empty"]) == (b"\x00\xff", None), name
    assert worker.metric("tally_dead_letters_total") >= len(BAD)
    assert_answers_exact(worker, oracle, minutes=MINUTES)
    assert_changelogs_exact(cluster.servers, oracle)
    worker.stop()


def test_a_bad_record_with_megabytes_of_headers_does_not_stop_its_partition(cluster: Cluster) -> None:
    """A dead letter carries the record's own headers; many large ones must not make one batch that Kafka refuses."""
    noise = random.Random(1).randbytes(MIB)
    before = len(dead_letters(cluster))
    throw(cluster, [(b"k", b"bad")] * 12, partition=PARTITION, headers=[("noise", noise)])
    cluster.send(some_tags(100, 400, minutes=MINUTES))
    worker = cluster.worker().start()
    wait_counted(worker, cluster.oracle(), minutes=MINUTES)
    eventually(lambda: len(dead_letters(cluster)) == before + 12, what="the dead letters")
    worker.stop()


def test_an_event_without_a_key_counts_and_its_profile_is_found(cluster: Cluster) -> None:
    """A7.25, A9. A null key says nothing of the user, who then lies in any partition: the profile is asked for everywhere."""
    value = record_bytes(a_user_tag(cookie="without-a-key", time="2022-03-01T00:05:00Z"))
    throw(cluster, [(None, value)] * SEEN_SURELY, partition=0)
    end = len(cluster.ledger[0])
    for offset in range(end - SEEN_SURELY, end):
        cluster.correct(0, offset, value)
    worker = cluster.worker().start()
    oracle = cluster.oracle()
    wait_counted(worker, oracle, minutes=MINUTES)
    assert_answers_exact(worker, oracle, minutes=MINUTES)
    eventually(lambda: "murmur2" in worker.log(), what="a log line that names the topic")
    worker.stop()


def test_too_many_dead_letters_end_the_worker_and_lose_nothing(cluster: Cluster) -> None:
    """A producer that writes nonsense must not drain the topic into the bin; let through on purpose, the rest counts."""
    throw(cluster, [(b"k", b"nonsense")] * 900, partition=1)
    cluster.send([*some_tags(101, 50, minutes=MINUTES)], partition=1)
    worker = cluster.worker(DEAD_LETTERS_WINDOW_RECORDS=100).start(wait=False)
    assert worker.wait_ended() == EXIT_CODE
    assert "more than a share of 0.5" in worker.log() and "TALLY_DEAD_LETTERS_SHARE_MAX=1" in worker.log()
    worker = cluster.worker(DEAD_LETTERS_WINDOW_RECORDS=100, DEAD_LETTERS_SHARE_MAX=1).start()
    oracle = cluster.oracle()
    wait_counted(worker, oracle, minutes=MINUTES)
    assert_answers_exact(worker, oracle, minutes=MINUTES)
    worker.stop()
