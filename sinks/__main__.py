"""Run the sinks, `python -m sinks`; bring the schema up to date, `… migrate`; write what waits for a window, `… flush`."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import warnings
from threading import Event
from typing import Any

with warnings.catch_warnings():
    # kafka-python reads its own schemas by a deprecated call, once, while it is imported.
    warnings.simplefilter("ignore", DeprecationWarning)
    from kafka import KafkaConsumer
    from kafka.errors import KafkaError

import psycopg

from sinks.blocks import BlockWriter
from sinks.days import DayPartitions
from sinks.dead_letters import DeadLetterProducer, DeadLetterWriter
from sinks.events import EventWriter
from sinks.flush import flush
from sinks.forward import Forward, read_window
from sinks.health import Health, Routes, serve
from sinks.loop import SinkLoop, SinkStoppedError
from sinks.migrate import check_revision, migrate
from sinks.observe import Observer, show_health
from sinks.postgres import ROLLER_NAME, Postgres, Remedy, remedy_of
from sinks.profiles import RowWriter
from sinks.retention import Retention
from sinks.roller import Roller
from sinks.submissions import SubmissionWriter
from sinks.writers import Writer
from streams import kafka_access, postgres_access
from streams.certificates import show_certificates
from streams.clock import SYSTEM_CLOCK, Clock
from streams.errors import SettingsError, TallyError
from streams.logs import Service, configure_logging
from streams.metrics import SinkMetrics
from streams.settings import Settings, Sinks, load_settings
from streams.topics import EVENTS, STREAMS, changelog_of

log = logging.getLogger(__name__)

USAGE = "usage: python -m sinks [migrate | flush]"
COMMANDS: tuple[list[str], ...] = ([], ["migrate"], ["flush"])
GROUP = "tally-sinks"
CHATTY = ("kafka",)
"""It reports every failed try of an outage as an error; the loop says once when one begins, and when it ends."""
START_PAUSE_S = 1.0
FETCH_BYTES_MAX = 16 * 1024 * 1024
PARTITION_FETCH_BYTES_MAX = 4 * 1024 * 1024
FETCH_BYTES_MIN = 256 * 1024
FETCH_WAIT_MS = 250
"""A worker writes hundreds of small batches a second. Asked for each by itself, they cost us and Kafka a third of a core each,
where rows wait up to `flush_interval_s` for others anyway."""
SESSION_TIMEOUT_MS = 6_000
"""The least that brokers allow by default: after a kill -9 the partitions wait for it. Heartbeats have their own thread."""
HEARTBEAT_INTERVAL_MS = 1_500
REQUEST_TIMEOUT_MS = 15_000
RECONNECT_PAUSE_MS_MAX = 2_000
METADATA_AGE_MS = 15_000
"""Topics that are made after the start are seen within this."""
CLOSE_TIMEOUT_MS = 3_000
PAUSE_S_MIN = 0.05
GC_THRESHOLDS = (100_000, 50, 50)
"""A transaction makes hundreds of thousands of tuples that no cycle holds: looking at them was nearly half of the work."""


def main(arguments: list[str]) -> int:
    """Do what the arguments say and return the exit code; an error is one line."""
    if arguments not in COMMANDS:
        sys.stderr.write(USAGE + "\n")
        return 2
    try:
        settings = load_settings()
        _check_settings(settings)
        configure_logging(settings, Service("sinks"), quiet=CHATTY)
        if arguments == ["migrate"]:
            sys.stdout.write(migrate(settings.postgres.dsn, who=settings.audit.who) + "\n")
        elif arguments == ["flush"]:
            sys.stdout.write(flush(settings) + "\n")
        else:
            run(settings)
    except TallyError as error:
        sys.stderr.write(f"sinks: {error}\n")
        return 1
    return 0


def run(settings: Settings) -> None:
    """Carry records until SIGTERM or SIGINT.

    Raises:
        TallyError: going on needs a human; the message is one line.
    """
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    gc.set_threshold(*GC_THRESHOLDS)
    gc.freeze()
    metrics, health = SinkMetrics(), Health(SYSTEM_CLOCK)
    metrics.configured(settings)
    files = kafka_access.certificate_files(settings.kafka) | postgres_access.certificate_files(settings.postgres.dsn)
    show_certificates(metrics, files, SYSTEM_CLOCK)
    show_health(metrics, health)
    server = serve(Routes(health, metrics), settings.sinks.host, settings.sinks.port)
    postgres = Postgres(settings.postgres.dsn)
    try:
        _wait_for_schema(postgres, health, stop)
        consumer = connect(settings, stop)
        if consumer is None:
            return
        observer = Observer(consumer, postgres, metrics=metrics, health=health, clock=SYSTEM_CLOCK)
        loop = make_loop(settings, consumer, postgres, observer=observer, stop=stop)
        roller = make_roller(settings, metrics)
        roller.start()
        try:
            loop.run()
        finally:
            roller.stop()
            loop.letters.close()
            consumer.close(autocommit=False, timeout_ms=CLOSE_TIMEOUT_MS)
    finally:
        postgres.close()
        server.shutdown()


def make_roller(settings: Settings, metrics: SinkMetrics) -> Roller:
    """Return the thread that rolls up; it has a connection of its own."""
    postgres, quiet_s = Postgres(settings.postgres.dsn, name=ROLLER_NAME), settings.sinks.rollup_quiet_s
    return Roller(STREAMS, postgres, quiet_s=quiet_s, metrics=metrics, clock=SYSTEM_CLOCK)


def make_loop(settings: Settings, consumer: Any, postgres: Postgres, *, observer: Observer, stop: Event) -> SinkLoop:
    """Return the loop with the sinks of every stream; it runs until *stop* is set."""
    clock = observer.clock
    retention = Retention(STREAMS, settings.sinks, clock)
    letters = DeadLetterProducer(settings.kafka, record_bytes_max=settings.topics.record_bytes_max)
    observer.forward = Forward([changelog_of(EVENTS.rows_table)], read_window(settings.sinks.events_forward), clock=clock)
    return SinkLoop(
        consumer=consumer,
        postgres=postgres,
        writers=writers(retention, settings, clock),
        letters=letters,
        retention=retention,
        observer=observer,
        settings=settings.sinks,
        clock=clock,
        stop=stop,
        forward=observer.forward,
        marked=[stream.topic for stream in STREAMS],
    )


def writers(retention: Retention, settings: Settings, clock: Clock) -> list[Writer]:
    """Return the sinks of every stream, and that of the dead letters."""
    made: list[Writer] = []
    for stream, cells, events in retention.tables:
        made.append(BlockWriter(stream, cells))
        if stream is EVENTS:
            made += _submission_writers(events, settings.sinks, clock)
        elif settings.sinks.user_events:
            made.append(RowWriter(stream, events))
    return [*made, DeadLetterWriter(clock, EVENTS if settings.sinks.events else None)]


def _submission_writers(days: DayPartitions, sinks: Sinks, clock: Clock) -> list[Writer]:
    """Return the sinks of the rows of submissions, and of their log; none where they are switched off."""
    if not sinks.events:
        return []
    rows_max = None if read_window(sinks.events_forward) is None else sinks.forward_batch_rows
    return [EventWriter(EVENTS, days, copy_rows_max=rows_max), SubmissionWriter(EVENTS, clock)]


def _check_settings(settings: Settings) -> None:
    for name, value in (("kafka.servers", settings.kafka.servers), ("postgres.dsn", settings.postgres.dsn)):
        if not value:
            variable = f"TALLY_{name.replace('.', '_').upper()}"
            raise SettingsError(f"{name} is empty: the sinks need it; set it, or {variable} (`make run` does)")


def _wait_for_schema(postgres: Postgres, health: Health, stop: Event) -> None:
    """Return when Postgres answers with the schema that this code was made for.

    Raises:
        TallyError: it answers with another schema, or refuses us.
    """
    waiting = False
    while not stop.is_set():
        try:
            check_revision(postgres.connection())
        except psycopg.Error as error:
            line = str(error).splitlines()[0]
            if remedy_of(error) is Remedy.STOP:
                raise SinkStoppedError(f"postgres refuses us: {line}") from error
            if not waiting:
                log.warning("waiting for postgres: %s", line)
            waiting = True
            stop.wait(START_PAUSE_S)
        else:
            health.postgres_answered()
            return


def connect(settings: Settings, stop: Event) -> Any:
    """Return a consumer as soon as Kafka answers; None when we are to stop before."""
    waiting = False
    while not stop.is_set():
        try:
            return resumable(
                KafkaConsumer(
                    bootstrap_servers=settings.kafka.servers.split(","),
                    **kafka_access.access(settings.kafka),
                    client_id=GROUP,
                    group_id=GROUP,
                    enable_auto_commit=False,
                    auto_offset_reset="earliest",
                    isolation_level="read_committed",
                    allow_auto_create_topics=False,
                    fetch_min_bytes=FETCH_BYTES_MIN,
                    fetch_max_wait_ms=FETCH_WAIT_MS,
                    fetch_max_bytes=FETCH_BYTES_MAX,
                    max_partition_fetch_bytes=PARTITION_FETCH_BYTES_MAX,
                    session_timeout_ms=SESSION_TIMEOUT_MS,
                    heartbeat_interval_ms=HEARTBEAT_INTERVAL_MS,
                    request_timeout_ms=REQUEST_TIMEOUT_MS,
                    reconnect_backoff_max_ms=RECONNECT_PAUSE_MS_MAX,
                    bootstrap_timeout_ms=REQUEST_TIMEOUT_MS,
                    metadata_max_age_ms=METADATA_AGE_MS,
                    metrics_enabled=False,
                )
            )
        except KafkaError as error:
            if not waiting:
                log.warning("waiting for kafka: %s", error)
            waiting = True
            stop.wait(START_PAUSE_S)
    return None


def resumable(consumer: Any) -> Any:
    """Have a consumer read on, after `resume`, what was left of a partition's records at `pause`.

    kafka-python 3.0 puts them aside, and takes them up only while no others are in turn. Others stay in turn after their last
    one, so the partition would neither be read nor fetched any more.
    """
    fetcher = consumer._fetcher
    fetched_records = fetcher.fetched_records

    def fetched(*arguments: Any, **named: Any) -> Any:
        if not fetcher._next_partition_records:
            fetcher._next_partition_records = None
        return fetched_records(*arguments, **named)

    fetcher.fetched_records = fetched
    return patient(consumer)


def patient(consumer: Any) -> Any:
    """Keep a consumer whose heartbeat is overdue from polling without a pause.

    kafka-python then waits 0 s, and hangs a callback on the fetch under way each time: 150 MiB in 20 s of a silent broker.
    """
    coordinator = consumer._coordinator
    next_poll_s = coordinator.time_to_next_poll
    coordinator.time_to_next_poll = lambda: max(next_poll_s(), PAUSE_S_MIN)
    return consumer


if __name__ == "__main__":
    code = main(sys.argv[1:])
    logging.shutdown()
    os._exit(code)  # kafka-python's thread may still wait for a broker that is gone; everything of ours is closed.
