"""Let other stream processors work off the same backlog: aggregates alone, with many cells and with few, and with profiles."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial

from bench.backlogs import filled
from bench.case import Case, Figure
from bench.console import tell
from bench.peers.build import make_environment, make_jars, missing_java_tools
from bench.peers.program import count_backlog
from bench.workloads import FEW, MANY, Workload

HEAP = "-Xmx2g"
"""More than either uses at its best; a quarter of the machine's memory otherwise."""
QUIET = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
FLINK_OPENS = ("--add-opens=java.base/java.lang=ALL-UNNAMED", "--add-opens=java.base/java.util=ALL-UNNAMED")
"""As Flink's own configuration for Java 17 has it."""
PYTHON_PART = 4
"""The slow ones get so small a part of the events: less state makes an event cheaper, if anything."""


@dataclass(frozen=True)
class Peer:
    """One peer.

    Attributes:
        command: sets it up and returns what runs it; None where the machine cannot run it.
        part: it gets this part of the events, one in so many.
        has_profiles: it keeps profiles beside the aggregates, which are checked too.
    """

    name: str
    title: str
    command: Callable[[], list[str] | None]
    part: int = 1
    has_profiles: bool = False


def java(module: str, main_class: str, *arguments: str, flags: Iterable[str] = ()) -> list[str] | None:
    """Return the command of a peer on the JVM; None, said loudly, without Maven or a JDK."""
    missing = missing_java_tools()
    if missing:
        tell(f"  LEFT OUT: {module} needs {', '.join(missing)} on the path")
        return None
    return ["java", HEAP, QUIET, *flags, "-cp", make_jars(module), f"tally.bench.{main_class}", *arguments]


def python(name: str) -> list[str]:
    """Return the command of a peer in Python."""
    return [str(make_environment(name)), "-m", f"bench.peers.{name}"]


def measure(peer: Peer, workload: Workload) -> Iterable[Figure]:
    """Measure one peer on one backlog; no figures where the machine cannot run it."""
    command = peer.command()
    if command is None:
        return []
    with filled(replace(workload, events=workload.events // peer.part)) as backlog:
        return count_backlog(backlog, command, has_profiles=peer.has_profiles).figures()


PEERS = (
    Peer("kafka_streams", "Kafka Streams", partial(java, "kafka-streams", "KafkaStreamsPeer")),
    Peer("kafka_streams_uncached", "Kafka Streams, cache off", partial(java, "kafka-streams", "KafkaStreamsPeer", "uncached")),
    Peer("flink", "Flink, RocksDB", partial(java, "flink", "FlinkPeer", flags=FLINK_OPENS)),
    Peer("quix_streams", "Quix Streams", partial(python, "quix_streams"), PYTHON_PART),
    Peer("arroyo", "sentry-arroyo, a dict a batch, no state", partial(python, "arroyo"), PYTHON_PART),
)
FOR_FEW = (Peer("flink_sql", "Flink SQL, mini-batches", partial(java, "flink", "FlinkSqlPeer", flags=FLINK_OPENS)),)
"""What nobody would take for many cells."""
WITH_PROFILES = (
    Peer(
        "kafka_streams",
        "Kafka Streams, cache off",
        partial(java, "kafka-streams", "KafkaStreamsPeer", "profiles", "uncached"),
        has_profiles=True,
    ),
    Peer("flink", "Flink, RocksDB", partial(java, "flink", "FlinkProfilesPeer", flags=FLINK_OPENS), has_profiles=True),
    Peer(
        "flink_heap",
        "Flink, state on the heap",
        partial(java, "flink", "FlinkProfilesPeer", "heap", flags=FLINK_OPENS),
        has_profiles=True,
    ),
)
JOBS = (
    ("", "aggregates alone, the spec's cardinality", MANY, PEERS),
    ("_few", "aggregates alone, 2 distinct cells", FEW, (*PEERS, *FOR_FEW)),
    ("_both", "aggregates and profiles", MANY, WITH_PROFILES),
)
CASES = tuple(
    Case(f"{peer.name}{suffix}", f"{peer.title}: {title}", partial(measure, peer, workload), is_peer=True)
    for suffix, title, workload, peers in JOBS
    for peer in peers
)
