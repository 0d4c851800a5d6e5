"""Which topics there are, and how they are set up."""

from __future__ import annotations

from stack.topics import TopicSpec, topic_specs
from streams.settings import load_settings

HOUR_MS = 3_600_000


def specs(**environment: str) -> dict[str, TopicSpec]:
    return {spec.name: spec for spec in topic_specs(load_settings(environment))}


def test_a_stream_needs_its_source_two_changelogs_the_dead_letters_and_their_replays() -> None:
    """Faust creates none of them: nothing creates topics but this."""
    assert set(specs()) == {
        "user-tags.v1",
        "dead-letters.v1",
        "dead-letter-replays.v1",
        "tally-minute-blocks-changelog",
        "tally-user-profiles-changelog",
    }


def test_every_topic_has_the_partitions_of_the_setting() -> None:
    """Table and source are partitioned alike, or Faust refuses to start."""
    assert {spec.partitions for spec in specs(TALLY_TOPICS_PARTITIONS="7").values()} == {7}


def test_blocks_are_compacted_and_rows_are_not() -> None:
    """Newer blocks supersede older ones; rows have unique keys, compaction would free nothing."""
    assert specs()["tally-minute-blocks-changelog"].configs["cleanup.policy"] == "compact,delete"
    assert specs()["tally-user-profiles-changelog"].configs["cleanup.policy"] == "delete"


def test_changelog_outlives_the_horizon() -> None:
    """Recovery must find all that queries may ask for."""
    configs = specs(TALLY_WORKER_HORIZON_S="86400")["tally-minute-blocks-changelog"].configs
    assert int(configs["retention.ms"]) > 24 * HOUR_MS


def test_changelog_segment_stays_open_an_hour_at_most() -> None:
    """Retention and compaction work on closed segments only."""
    configs = specs(TALLY_TOPICS_SEGMENT_S="86400")["tally-user-profiles-changelog"].configs
    assert int(configs["segment.ms"]) == HOUR_MS


def test_source_ages_by_arrival() -> None:
    """A producer's clock, or a simulated day, must not age out anybody's data (A19)."""
    configs = specs(TALLY_TOPICS_RETENTION_S="60", TALLY_TOPICS_SEGMENT_S="5")["user-tags.v1"].configs
    assert (configs["retention.ms"], configs["segment.ms"]) == ("60000", "5000")
    assert configs["message.timestamp.type"] == "LogAppendTime"


def test_dead_letter_topic_takes_the_largest_record_of_a_source_and_its_headers() -> None:
    """A record too big for its own grave would stop the partition."""
    source, grave = specs()["user-tags.v1"].configs, specs()["dead-letters.v1"].configs
    assert int(grave["max.message.bytes"]) >= int(source["max.message.bytes"]) + 1024 * 1024


def test_a_mark_of_a_replay_is_never_removed() -> None:
    """Gone before its dead letter, it would let the event be sent a second time."""
    assert specs()["dead-letter-replays.v1"].configs["cleanup.policy"] == "compact"
