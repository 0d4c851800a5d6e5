"""Which topics there are, and how they are set up."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

from kafka.admin import KafkaAdminClient

from stack.topics import TopicSpec, _count_partitions, topic_specs
from streams.settings import load_settings

HOUR_MS = 3_600_000


def specs(**environment: str) -> dict[str, TopicSpec]:
    return {spec.name: spec for spec in topic_specs(load_settings(environment))}


def test_a_stream_needs_its_source_two_changelogs_the_dead_letters_and_their_replays() -> None:
    """Faust creates none of them: nothing creates topics but this."""
    assert set(specs()) == {
        "user-tags.v1",
        "events.v1",
        "dead-letters.v1",
        "dead-letter-replays.v1",
        "sessions.v1",
        "tally-minute-blocks-changelog",
        "tally-user-profiles-changelog",
        "tally-event-blocks-changelog",
        "tally-event-timeline-changelog",
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


def test_rows_that_tell_duplicates_outlive_their_window_and_a_day_of_lag() -> None:
    """P4: 48 hours, counted from when Kafka took a submission; a worker that lags looks for older ones than it writes."""
    assert int(specs()["tally-event-timeline-changelog"].configs["retention.ms"]) >= (48 + 24) * HOUR_MS
    assert (
        int(specs(TALLY_WORKER_HORIZON_S="31536000")["tally-event-timeline-changelog"].configs["retention.ms"]) > 8760 * HOUR_MS
    )


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


def test_sessions_are_compacted_and_go_when_they_are_old() -> None:
    """P11: a gateway that starts reads one record a session, and whose session it was is not kept for ever."""
    configs = specs(TALLY_ANALYTICS_SESSION_S="3600")["sessions.v1"].configs
    assert (configs["cleanup.policy"], configs["retention.ms"]) == ("compact,delete", "3600000")


def test_a_topic_without_partitions_is_not_there_yet() -> None:
    """Kafka says so for a moment while somebody else makes it; two starts at once would take it for a wrong setting."""
    answered = [
        {"name": "made", "error_code": 0, "partitions": [{}, {}]},
        {"name": "being-made", "error_code": 0, "partitions": []},
        {"name": "unknown", "error_code": 3, "partitions": []},
    ]
    assert _count_partitions(cast(KafkaAdminClient, SimpleNamespace(describe_topics=lambda: answered))) == {"made": 2}
