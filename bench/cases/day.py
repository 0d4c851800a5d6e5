"""A day of the Allezon task, 86,400,000 tags, through the whole job as fast as it goes: right answers, cost, memory, disk.

A producer writes straight into Kafka, one worker counts with profiles on, the sinks write cells into Postgres (no row an event:
those would be another 13 GB), all on this machine. The producer is held back by the lag of both, so nothing waits for long, and
the day is one of full speed. Everything is compared at the end: every minute and action by the worker's /aggregates and by the
sums of Postgres, and 100 profiles event by event. Only run when named: at full size it takes 25 minutes of an
idle machine, and some 25 GB of disk.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
import warnings
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

with warnings.catch_warnings():
    # kafka-python reads its own schemas by a deprecated call, once, while it is imported.
    warnings.simplefilter("ignore", DeprecationWarning)
    from kafka import KafkaConsumer, TopicPartition

from bench.backlogs import Totals, bench_home, run_folder
from bench.case import Case, Figure
from bench.cases.sink import TOPIC, applied, empty_postgres
from bench.console import tell
from bench.day_tags import DAY
from bench.processes import cpu_s, peak_rss_mib, tree_of
from bench.programs import ROOT, running, wait_ready
from bench.progress import CPU_UNIT, MEMORY_UNIT, RATE_UNIT, STALL_S, BenchError
from bench.workers import ALWAYS, RIGHT_WITHIN_S, counted_by, wrong_minutes
from stack.kafka import LocalKafka
from stack.ports import free_port
from stack.postgres import LocalPostgres
from stack.service import check_space, die_with_parent
from stack.topics import create_topics
from streams.clock import SYSTEM_CLOCK
from streams.settings import load_settings
from tests.support.eventually import eventually
from tests.support.worker import WorkerProcess, get

EVENTS = 86_400_000
EVENTS_AHEAD_MAX = 2_000_000
"""Sent, and not counted yet: twenty seconds' worth, so the worker never waits and the page cache holds them."""
SINK_LAG_RECORDS_MAX = 5_000
TIMEOUT_S = 5_400.0
"""A machine that others use too may need three times as long."""
POLL_S = 1.0
TELL_S = 30.0
BYTES_AN_EVENT = 350
DISK_BYTES_MAX = 45 << 30
GIB = 1 << 30
BLOCK_BYTES = 512
STOP_WITHIN_S = 10.0
SUMS = """
    SELECT (extract(epoch FROM minute_at) / 60)::bigint, action, sum(event_count)::bigint, sum(price_sum)::bigint
      FROM tally.minute_cells GROUP BY 1, 2
"""


@dataclass(frozen=True)
class Job:
    """What runs.

    Attributes:
        home: everything but Postgres' data, which may lie elsewhere.
    """

    home: Path
    servers: str
    dsn: str
    worker: WorkerProcess
    sinks: subprocess.Popen[bytes]
    sinks_port: int

    @property
    def worker_pid(self) -> int:
        assert self.worker.process is not None
        return self.worker.process.pid

    def sink_lag(self) -> int:
        """Return how many records of the blocks are not in Postgres yet.

        Raises:
            OSError: the sinks do not answer.
        """
        with urllib.request.urlopen(f"http://127.0.0.1:{self.sinks_port}/metrics", timeout=10) as response:
            lines = response.read().decode().splitlines()
        return int(sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("tally_sink_lag_records{")))

    def disk_bytes(self) -> dict[str, int]:
        """Return what Kafka, RocksDB and Postgres have on the disk."""
        folders = {
            "Kafka": self.home / "kafka",
            "RocksDB": self.worker.home,
            "Postgres": LocalPostgres(self.home / "postgres").data,
        }
        return {name: size_of(folder) for name, folder in folders.items()}


@dataclass
class Course:
    """How a run went on.

    Attributes:
        ends: of the blocks' changelog, when it was last looked at.
        peak_mib: the most memory that worker and sinks ever had, before anybody asked anything.
        moved_s: when the count or the lag of the sinks, records, was last seen to change.
    """

    started_s: float
    cpu_s: Mapping[str, float]
    moved_s: float
    wall_s: float = 0.0
    peak_mib: Mapping[str, float] = field(default_factory=dict)
    disk_peak_bytes: int = 0
    counted: int = 0
    lag: int = 0
    ends: dict[int, int] = field(default_factory=dict)


def measure() -> Iterator[Figure]:
    """Run the day, check every answer, and say what it took."""
    events = DAY.sized(EVENTS).events
    check_space(bench_home(), bytes_min=events * BYTES_AN_EVENT)
    with run_folder() as home, running_job(home) as job:
        expected_path = home / "expected.json"
        with producing(job.servers, events, expected_path, home / "producer.log") as producer:
            course = run_day(job, producer, events)
        expected = json.loads(expected_path.read_text(encoding="utf-8"))
        tell(f"  {events:,} events in {course.wall_s:.0f} s; comparing")
        check(job, expected)
        yield from figures(job, course, events, producer_s=expected["cpu_s"])


@contextmanager
def running_job(home: Path) -> Iterator[Job]:
    """Run Kafka, Postgres, the sinks and one worker, all fresh and ready."""
    kafka = LocalKafka(home / "kafka")
    kafka.start()
    try:
        create_topics(kafka.servers, load_settings({"TALLY_TOPICS_PARTITIONS": str(DAY.partitions)}))
        with empty_postgres(home) as dsn:
            port, log = free_port(), home / "sinks.log"
            settings = {
                "TALLY_KAFKA_SERVERS": kafka.servers,
                "TALLY_POSTGRES_DSN": dsn,
                "TALLY_SINKS_PORT": str(port),
                "TALLY_SINKS_USER_EVENTS": "false",
            }
            worker = WorkerProcess(kafka.servers, home / "job", settings={"TALLY_TOPICS_PARTITIONS": str(DAY.partitions)})
            with running("sinks", settings=settings, log=log) as sinks:
                wait_ready(sinks, log, lambda: get(f"http://127.0.0.1:{port}/ready")[0] == 200)
                try:
                    worker.start()
                    yield Job(home, kafka.servers, dsn, worker, sinks, port)
                finally:
                    worker.kill()
    finally:
        kafka.kill()


@contextmanager
def producing(servers: str, events: int, expected: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run the producer of the day, which waits for its first line."""
    command = [sys.executable, "-m", "bench.day_tags", servers, str(events), str(expected)]
    with log.open("ab") as stream:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=stream,
            stderr=stream,
            preexec_fn=die_with_parent(signal.SIGKILL),  # noqa: PLW1509 - one C call, safe after a fork
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait(STOP_WITHIN_S)


def run_day(job: Job, producer: subprocess.Popen[bytes], events: int) -> Course:
    """Let the producer send as fast as the worker and the sinks follow; return when everything is counted and written.

    Raises:
        BenchError: a process ended, nothing moved for `STALL_S`, or the disk fills.
    """
    started_s = told_s = SYSTEM_CLOCK.monotonic_s()
    course = Course(started_s, used(job), moved_s=started_s)
    while not (course.counted == events and producer.poll() == 0 and is_written(job, course)):
        lag = look(job, course, producer)
        if lag <= SINK_LAG_RECORDS_MAX and producer.poll() is None:
            allow(producer, course.counted + EVENTS_AHEAD_MAX)
        if SYSTEM_CLOCK.monotonic_s() - told_s >= TELL_S:
            told_s = SYSTEM_CLOCK.monotonic_s()
            tell_progress(job, course, lag)
        time.sleep(POLL_S)
    course.wall_s = SYSTEM_CLOCK.monotonic_s() - started_s
    course.cpu_s = {name: seconds - course.cpu_s[name] for name, seconds in used(job).items()}
    course.peak_mib = {"worker": peak_rss_mib(job.worker_pid), "sinks": peak_rss_mib(job.sinks.pid)}
    return course


def look(job: Job, course: Course, producer: subprocess.Popen[bytes]) -> int:
    """Note how far worker and sinks are; return the lag of the sinks, records.

    Raises:
        BenchError: a process ended, or nothing moved for `STALL_S`.
    """
    for process in (job.worker.process, job.sinks, producer):
        if process is None or process.poll():
            raise BenchError(f"a process ended, see the logs in {job.home}: {process and process.args!r}")
    now_s, counted = SYSTEM_CLOCK.monotonic_s(), counted_by([job.worker])
    lag = job.sink_lag()
    if (counted, lag) != (course.counted, course.lag):
        course.counted, course.lag, course.moved_s = counted, lag, now_s
    elif now_s - course.moved_s > STALL_S:
        raise BenchError(f"{counted:,} events are counted, and nothing moved for {STALL_S:.0f} s")
    return lag


def allow(producer: subprocess.Popen[bytes], events: int) -> None:
    """Let the producer send so many events in all."""
    assert producer.stdin is not None
    with suppress(BrokenPipeError):  # it has sent them all, and ends
        producer.stdin.write(b"%d\n" % events)
        producer.stdin.flush()


def is_written(job: Job, course: Course) -> bool:
    """Say whether Postgres has all of the blocks' changelog, and that did not grow since the last look."""
    partitions = [TopicPartition(TOPIC, number) for number in range(DAY.partitions)]
    with closing(KafkaConsumer(bootstrap_servers=job.servers)) as consumer:
        ends = {place.partition: end for place, end in consumer.end_offsets(partitions).items()}
    with psycopg.connect(job.dsn, autocommit=True) as connection:
        done = applied(connection)
    is_still, course.ends = ends == course.ends, ends
    return is_still and all(done.get(partition, 0) >= end for partition, end in ends.items())


def tell_progress(job: Job, course: Course, lag: int) -> None:
    """Say how far the day is.

    Raises:
        BenchError: more lies on the disk than a day may take.
    """
    disk = job.disk_bytes()
    course.disk_peak_bytes = max(course.disk_peak_bytes, sum(disk.values()))
    rate = course.counted / (SYSTEM_CLOCK.monotonic_s() - course.started_s)
    sizes = ", ".join(f"{name} {size / GIB:.1f}" for name, size in disk.items())
    tell(f"  {course.counted:,} events, {rate:,.0f}/s; the sinks lag {lag} records; GiB: {sizes}")
    if course.disk_peak_bytes > DISK_BYTES_MAX:
        raise BenchError(f"{course.disk_peak_bytes / GIB:.0f} GiB lie on the disk: more than a day may take")


def used(job: Job) -> dict[str, float]:
    """Return CPU seconds so far; of everything that we have started, what has ended left out."""
    everything = 0.0
    for pid in tree_of(os.getpid()):
        with suppress(OSError):  # Postgres' helpers come and go
            everything += cpu_s(pid)
    return {"worker": cpu_s(job.worker_pid), "sinks": cpu_s(job.sinks.pid), "everything": everything}


def size_of(folder: Path) -> int:
    """Return what a folder has on the disk, bytes; files that vanish meanwhile count nothing."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += (Path(place) / name).lstat().st_blocks * BLOCK_BYTES
    return total


def check(job: Job, expected: Mapping[str, Any]) -> None:
    """Compare every minute by the worker and by Postgres, and the watched profiles.

    Raises:
        BenchError: something differs.
    """
    totals = {(minute, action): Totals(count, total) for minute, action, count, total in expected["totals"]}
    try:
        eventually(lambda: not wrong_minutes(job.worker.url, totals), within_s=RIGHT_WITHIN_S, what="the right aggregates")
    except AssertionError as error:
        raise BenchError(f"wrong aggregates: {wrong_minutes(job.worker.url, totals)[:5]}") from error
    with psycopg.connect(job.dsn) as connection:
        found = {(row[0], row[1]): Totals(row[2], row[3]) for row in connection.execute(SUMS)}
    wrong = sorted(key for key in {*found, *totals} if found.get(key) != totals.get(key))
    if wrong:
        raise BenchError(
            f"postgres is wrong in {len(wrong)} minutes: {[(key, found.get(key), totals.get(key)) for key in wrong[:5]]}"
        )
    for cookie, kinds in expected["profiles"].items():
        answer = get(f"{job.worker.url}/user_profiles/{cookie}?time_range={ALWAYS}", body=b"")
        if answer != (200, {"cookie": cookie, "views": kinds["VIEW"], "buys": kinds["BUY"]}):
            raise BenchError(f"wrong profile of {cookie}: {str(answer)[:500]}")


def figures(job: Job, course: Course, events: int, *, producer_s: float) -> Iterator[Figure]:
    """Yield what the day took."""
    rest_s = course.cpu_s["everything"] - course.cpu_s["worker"] - course.cpu_s["sinks"]
    yield Figure("wall", course.wall_s, "s")
    yield Figure("events", events / course.wall_s, RATE_UNIT, more_is_better=True)
    yield Figure("worker, CPU", course.cpu_s["worker"] / events * 1e6, CPU_UNIT)
    yield Figure("sinks, CPU", course.cpu_s["sinks"] / events * 1e6, CPU_UNIT)
    yield Figure("producer, CPU", producer_s / events * 1e6, CPU_UNIT)
    yield Figure("Kafka and Postgres, CPU", rest_s / events * 1e6, CPU_UNIT)
    for name, peak_mib in course.peak_mib.items():
        yield Figure(f"{name}, peak memory", peak_mib, MEMORY_UNIT)
    disk = job.disk_bytes()
    for name, size in disk.items():
        yield Figure(f"{name}, disk at the end", size / GIB, "GiB")
    yield Figure("disk, most at one time", max(course.disk_peak_bytes, sum(disk.values())) / GIB, "GiB")


CASE = Case(
    "day",
    "a day of the Allezon task, 86,400,000 events, at full speed through the whole job",
    measure,
    runs=1,
    is_long=True,
    timeout_s=TIMEOUT_S,
)
