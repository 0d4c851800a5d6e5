"""Create every topic that a stream needs, before a worker starts; refuse ones that exist with other partitions."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError, TopicAlreadyExistsError

from stack.errors import StackError
from streams.errors import KafkaUnavailableError
from streams.kafka_access import access
from streams.partitioner import check_partitions
from streams.settings import Kafka, Settings
from streams.topics import DEAD_LETTERS, REPLAYS, SESSIONS, STREAMS, Stream, changelog_of

CHANGELOG_RECORD_BYTES_MAX = 32 * 1024 * 1024
HORIZON_MARGIN_S = 3_600  # A changelog outlives what is read from it, however late retention acts.
CHANGELOG_SEGMENT_S_MAX = 3_600  # Retention works on closed segments only.
DEAD_LETTER_MARGIN_BYTES = 1024 * 1024  # A dead letter is the record as it came, and headers.
TIMEOUT_MS = 30_000


@dataclass(frozen=True)
class TopicSpec:
    """One topic as it should be created."""

    name: str
    partitions: int
    replication_factor: int
    configs: dict[str, str]


def topic_specs(settings: Settings, streams: Sequence[Stream] = STREAMS) -> list[TopicSpec]:
    """Return every topic of *streams*: sources, changelogs, the dead letters and the marks of their replays."""
    topics = settings.topics
    # Retention counts from arrival: a producer's clock, or a simulated day, must not age out anybody's data.
    source = _configs("delete", retention_s=topics.retention_s, segment_s=topics.segment_s)
    source["message.timestamp.type"] = "LogAppendTime"
    configs = {stream.topic: source | {"max.message.bytes": str(topics.record_bytes_max)} for stream in streams}
    dead_letter_bytes_max = topics.record_bytes_max + DEAD_LETTER_MARGIN_BYTES
    configs[DEAD_LETTERS] = source | {"max.message.bytes": str(dead_letter_bytes_max)}
    # A mark that is gone before its dead letter would let the event be sent twice, so none goes; there are few.
    configs[REPLAYS] = {"cleanup.policy": "compact", "segment.ms": source["segment.ms"]}
    configs[SESSIONS] = _configs("compact,delete", retention_s=settings.analytics.session_s, segment_s=topics.segment_s)
    for stream in streams:
        configs[changelog_of(stream.blocks_table)] = _changelog("compact,delete", settings, settings.worker.horizon_s)
        configs[changelog_of(stream.rows_table)] = _changelog(
            "delete", settings, stream.rows_horizon_s(settings.worker.horizon_s)
        )
    return [
        TopicSpec(name, topics.partitions, topics.replication_factor, topic_configs) for name, topic_configs in configs.items()
    ]


def create_topics(servers: str, settings: Settings, streams: Sequence[Stream] = STREAMS) -> list[str]:
    """Create the topics of *streams* that are missing and return their names; a second call creates none.

    Configurations of topics that exist are left alone: they may be somebody's decision.

    Args:
        servers: bootstrap servers, host:port,host:port.

    Raises:
        SettingsError: a topic has another number of partitions than the setting.
        StackError: the broker refuses to create one.
        KafkaUnavailableError: no broker answers.
    """
    specs = topic_specs(settings, streams)
    with _admin(servers, settings.kafka) as admin:
        counts = _count_partitions(admin)
        _check_partitions(specs, counts)
        missing = [spec for spec in specs if spec.name not in counts]
        if missing:
            _create(admin, missing)
            _check_partitions(specs, _count_partitions(admin))  # another start may have created them meanwhile
    return [spec.name for spec in missing]


def _configs(policy: str, *, retention_s: int, segment_s: int) -> dict[str, str]:
    return {
        "cleanup.policy": policy,
        "retention.ms": str(retention_s * 1000),
        "segment.ms": str(segment_s * 1000),
    }


def _changelog(policy: str, settings: Settings, horizon_s: int) -> dict[str, str]:
    retention_s = horizon_s + HORIZON_MARGIN_S
    segment_s = min(settings.topics.segment_s, CHANGELOG_SEGMENT_S_MAX)
    configs = _configs(policy, retention_s=retention_s, segment_s=segment_s)
    return configs | {"max.message.bytes": str(CHANGELOG_RECORD_BYTES_MAX)}


def _count_partitions(admin: KafkaAdminClient) -> dict[str, int]:
    """Return the partitions of each topic; one that is being made has none for a moment, and is not there yet."""
    found = {topic["name"]: len(topic["partitions"]) for topic in admin.describe_topics() if not topic["error_code"]}
    return {name: partitions for name, partitions in found.items() if partitions}


def _check_partitions(specs: Sequence[TopicSpec], counts: Mapping[str, int]) -> None:
    for spec in specs:
        check_partitions(spec.name, counts.get(spec.name, spec.partitions), spec.partitions)


@contextmanager
def _admin(servers: str, kafka: Kafka) -> Iterator[KafkaAdminClient]:
    logging.getLogger("kafka").setLevel(logging.CRITICAL)  # What it logs as an error, we raise.
    try:
        admin = KafkaAdminClient(bootstrap_servers=servers.split(","), bootstrap_timeout_ms=TIMEOUT_MS, **access(kafka))
    except (KafkaError, OSError) as error:
        raise KafkaUnavailableError(f"kafka at {servers} does not answer: {error}") from error
    try:
        yield admin
    except KafkaError as error:
        raise KafkaUnavailableError(f"kafka at {servers} did not do what it was asked: {error}") from error
    finally:
        admin.close()


def _create(admin: KafkaAdminClient, specs: Sequence[TopicSpec]) -> None:
    wanted = {
        spec.name: {
            "num_partitions": spec.partitions,
            "replication_factor": spec.replication_factor,
            "configs": spec.configs,
        }
        for spec in specs
    }
    try:
        admin.create_topics(wanted, timeout_ms=TIMEOUT_MS, wait_for_metadata=True)
    except TopicAlreadyExistsError:
        admin.wait_for_topics(list(wanted))  # another start was faster
    except KafkaError as error:
        raise StackError(f"kafka refuses to create topics {', '.join(wanted)}: {error}") from error
