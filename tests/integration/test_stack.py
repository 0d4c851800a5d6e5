"""The local stack for real: Kafka and Postgres that keep what they took, and the command that runs them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient

from stack.errors import StackError
from stack.home import StackHome
from stack.kafka import LocalKafka, kafka_answers
from stack.leftovers import MARK, processes_of, stop_leftovers
from stack.ports import free_port, is_free
from stack.postgres import LocalPostgres
from stack.progress import say_nothing
from stack.service import check_space
from stack.topics import create_topics
from streams.clock import SYSTEM_CLOCK
from streams.errors import SettingsError
from streams.settings import Settings, load_settings
from streams.topics import DEAD_LETTERS, STREAMS

ROOT = Path(__file__).resolve().parent.parent.parent
GONE_TIMEOUT_S = 20.0
SOURCE = STREAMS[0].topic


@pytest.fixture
def admin(kafka_servers: str) -> Iterator[KafkaAdminClient]:
    """A client for the tests' own questions."""
    client = KafkaAdminClient(bootstrap_servers=kafka_servers)
    yield client
    client.close()


@pytest.fixture
def no_topics(admin: KafkaAdminClient) -> Iterator[None]:
    """Other tests share the broker: start without any of the job's topics, and leave none with partitions of our own."""
    remove_topics(admin)
    yield
    remove_topics(admin)


def remove_topics(admin: KafkaAdminClient) -> None:
    """Return when the broker has no topic but its own."""
    names = [name for name in admin.list_topics() if not name.startswith("__")]
    if names:
        admin.delete_topics(names)
    deadline_s = SYSTEM_CLOCK.monotonic_s() + GONE_TIMEOUT_S
    while set(names) & set(admin.list_topics()):  # the broker forgets them a moment after the controller
        assert SYSTEM_CLOCK.monotonic_s() < deadline_s, names


def settings(**environment: str) -> Settings:
    return load_settings(environment)


@pytest.mark.usefixtures("no_topics")
def test_topics_are_created_once_with_their_partitions(kafka_servers: str, admin: KafkaAdminClient) -> None:
    """A second start of the job changes nothing."""
    created = create_topics(kafka_servers, settings(TALLY_TOPICS_PARTITIONS="3"))
    assert {SOURCE, DEAD_LETTERS} < set(created)
    assert create_topics(kafka_servers, settings(TALLY_TOPICS_PARTITIONS="3")) == []
    assert {len(topic["partitions"]) for topic in admin.describe_topics(created)} == {3}


@pytest.mark.usefixtures("no_topics")
def test_topic_with_other_partitions_is_refused_with_what_to_do(kafka_servers: str, admin: KafkaAdminClient) -> None:
    """Partitions are fixed for the life of a version: keys would move, and Faust would refuse the tables."""
    admin.create_topics({SOURCE: {"num_partitions": 2, "replication_factor": 1}}, wait_for_metadata=True)
    with pytest.raises(SettingsError, match=rf"is 4, but topic '{SOURCE}' has 2 partitions; set TALLY_TOPICS_PARTITIONS=2"):
        create_topics(kafka_servers, settings())
    assert DEAD_LETTERS not in admin.list_topics(), "nothing is created beside a topic that does not fit"


@pytest.mark.usefixtures("no_topics")
def test_largest_record_of_a_source_fits_into_the_dead_letters(kafka_servers: str) -> None:
    """A record that only the source takes would have no grave (interface: the record as it came, with headers)."""
    create_topics(kafka_servers, settings(TALLY_TOPICS_RECORD_BYTES_MAX="1048576"))
    producer = KafkaProducer(bootstrap_servers=kafka_servers, max_request_size=4_000_000)
    value = os.urandom(1_048_576 - 200)
    producer.send(SOURCE, value, partition=0).get(10)
    producer.send(DEAD_LETTERS, value, headers=[("detail", b"x" * 500)], partition=0).get(10)
    producer.close()


def test_kafka_killed_and_started_again_has_every_acknowledged_record(kafka: LocalKafka) -> None:
    """The log is the truth; everything else is derived from it."""
    topic = f"kept-{uuid.uuid4().hex}"
    # Closed before the kill: clients of kafka-python that lose their broker leave sockets open.
    client = KafkaAdminClient(bootstrap_servers=kafka.servers)
    client.create_topics({topic: {"num_partitions": 1, "replication_factor": 1}}, wait_for_metadata=True)
    client.close()
    producer = KafkaProducer(bootstrap_servers=kafka.servers, acks="all")
    for future in [producer.send(topic, str(number).encode()) for number in range(100)]:
        future.get(10)
    producer.close()
    port = kafka.port
    kafka.kill()
    assert not kafka_answers(kafka.servers)
    kafka.start()
    assert kafka.port == port
    assert values_of(kafka.servers, topic, 100) == [str(number).encode() for number in range(100)]


def values_of(servers: str, topic: str, count: int) -> list[bytes]:
    consumer = KafkaConsumer(bootstrap_servers=servers, auto_offset_reset="earliest", consumer_timeout_ms=20_000)
    consumer.assign([TopicPartition(topic, 0)])
    values = [record.value for _, record in zip(range(count), consumer, strict=False)]
    consumer.close()
    return values


def test_postgres_killed_and_started_again_has_every_committed_row(postgres: LocalPostgres, fresh_database: str) -> None:
    """What a sink committed with its offset must survive a power cut: fsync is on."""
    with psycopg.connect(fresh_database) as connection:
        connection.execute("CREATE TABLE kept AS SELECT generate_series(1, 1000) AS number")
    postgres.kill()
    postgres.start()
    with psycopg.connect(fresh_database) as connection:
        assert connection.execute("SELECT count(*), current_setting('fsync') FROM kept").fetchone() == (1000, "on")


def test_postgres_lets_nobody_in_without_the_password(postgres: LocalPostgres) -> None:
    """The wheel's own server trusts every user of the machine; ours asks for a password nobody else can read."""
    parts = urlsplit(postgres.dsn)
    without = urlunsplit(parts._replace(netloc=f"tally@127.0.0.1:{postgres.port}"))
    for dsn in (without, without.replace("tally@", "tally:wrong@")):
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(dsn, passfile="/dev/null")
    assert (postgres.home / "password").stat().st_mode & 0o777 == 0o600


@pytest.mark.usefixtures("postgres_dsn", "kafka_servers")
def test_both_servers_listen_on_the_loopback_address_only(postgres: LocalPostgres, kafka: LocalKafka) -> None:
    """Neither is made for a network."""
    for port in (postgres.port, kafka.port):
        assert listening_addresses(port) == {"0100007F"}, "127.0.0.1 in the kernel's notation, and no IPv6"


def listening_addresses(port: int) -> set[str]:
    rows = [row.split() for name in ("tcp", "tcp6") for row in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    return {
        row[1].rpartition(":")[0].removeprefix("0000000000000000FFFF0000")
        for row in rows
        if row[3] == "0A" and int(row[1].rpartition(":")[2], 16) == port
    }


def test_taken_port_is_seen_as_taken() -> None:
    """The check before the start is the real one: a listener, not a guess."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not is_free(port)
    assert is_free(port)


def test_full_disk_is_refused_in_one_line(tmp_path: Path) -> None:
    """Better than a broker that dies in the middle."""
    with pytest.raises(StackError, match=r"^the disk of .* is full: \d+ MiB free, \d+ MiB needed"):
        check_space(tmp_path, bytes_min=1 << 60)


def test_processes_of_a_killed_job_are_found_and_stopped(tmp_path: Path) -> None:
    """A job whose manager was killed leaves processes on its ports and files."""
    marked = subprocess.Popen(["sleep", "300"], env={**os.environ, MARK: str(tmp_path)})
    other = subprocess.Popen(["sleep", "300"], env={**os.environ, MARK: f"{tmp_path}-other"})
    try:
        assert processes_of(tmp_path) == [marked.pid]
        stop_leftovers(tmp_path, say=say_nothing)
        assert marked.wait(10) == -signal.SIGTERM
        assert other.poll() is None
    finally:
        for process in (marked, other):
            process.kill()
            process.wait()


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start `python -m stack services` in a folder of its own, on free ports; killed at the end, with what it left."""
    home = tmp_path / "home"
    started: list[subprocess.Popen[str]] = []
    ports = {f"TALLY_{name}_PORT": str(free_port()) for name in ("GATEWAY", "WEB", "SINKS", "STACK_KAFKA", "STACK_POSTGRES")}
    environment = {**os.environ, **ports, "TALLY_STACK_HOME": str(home)}

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "stack", "services"]
        started.append(
            subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()
    stop_leftovers(home, say=say_nothing)
    LocalPostgres(home / "postgres").remove()


def lines_until(process: subprocess.Popen[str], beginning: str) -> list[str]:
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line.rstrip())
        if line.startswith(beginning):
            return lines
    raise AssertionError(f"it ended without a line {beginning!r}: {lines}")


@pytest.mark.timeout(180)
def test_stack_starts_tells_its_addresses_refuses_a_second_and_stops_in_order(
    services: Callable[[], subprocess.Popen[str]], tmp_path: Path
) -> None:
    """Interface: stack.env while it runs; a second run says so; SIGTERM stops all in order and leaves nothing."""
    home = StackHome(tmp_path / "home")
    first = services()
    lines_until(first, "kafka and postgres are ready")
    addresses = home.read_environment()
    assert set(addresses) == {"TALLY_KAFKA_SERVERS", "TALLY_POSTGRES_DSN"}
    assert kafka_answers(addresses["TALLY_KAFKA_SERVERS"])
    second, _ = services().communicate(timeout=30)
    assert second.startswith(f"tally: tally already runs in {home.path} (pid {first.pid}, ")
    assert second.count("\n") == 1
    first.send_signal(signal.SIGTERM)
    assert lines_until(first, "stopped") == ["stopping postgres", "stopping kafka", "stopped"]
    assert first.wait(30) == 0
    assert processes_of(home.path) == []
    assert not home.environment_file.exists()


@pytest.mark.timeout(180)
def test_stack_killed_with_its_manager_cleans_up_and_finds_its_data_again(
    services: Callable[[], subprocess.Popen[str]], tmp_path: Path
) -> None:
    """`kill -9` of both at once orphans Kafka and Postgres on their ports and files; the next start deals with them."""
    home = StackHome(tmp_path / "home")
    first = services()
    lines_until(first, "kafka and postgres are ready")
    manager = int((home.path / "supervisord.pid").read_text())
    os.kill(manager, signal.SIGSTOP)  # else it would see us die and stop its processes in order
    first.kill()
    os.kill(manager, signal.SIGKILL)
    first.wait()
    lines = lines_until(services(), "kafka and postgres are ready")
    assert any("nobody watches over any more" in line for line in lines)
    assert not any(line.startswith("created topics") for line in lines), "the topics of the first run are still there"
