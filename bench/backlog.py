"""CPU time an event of a worker that works off a backlog, beside an idiomatic Faust table; and the time to recover.

`python -m bench.backlog [EVENTS]`. Each case has a Kafka of its own, filled by the same seed, and a worker process of its own.
CPU is that of all threads of the process, from its first counted event to its last, by the kernel's clock; the broker's is not
in it. The idiomatic table gets a twentieth of the events: its cost an event does not depend on their number.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from aiokafka import AIOKafkaProducer

from load.events import events
from stack.kafka import LocalKafka
from stack.ports import free_port
from stack.topics import create_topics
from streams.clock import SYSTEM_CLOCK
from streams.partitioner import partition_of
from streams.settings import load_settings
from streams.topics import USER_TAGS
from tests.support.eventually import eventually
from tests.support.worker import ROOT, WorkerProcess, get

SEED = 1
IDIOMATIC_PART = 20
WITHIN_S = 120.0
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Run every case and print a table."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    tell(f"{count} events, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; CPU µs an event, wall events/s")
    for name, settings in (("aggregates alone", {"TALLY_WORKER_PROFILES": "false"}), ("aggregates + profiles", {})):
        with filled_kafka(count) as (kafka, home):
            worker = WorkerProcess(kafka.servers, home, settings=settings).start(wait=False)
            tell(measure(name, worker.process, count, counter_of(worker)))
            worker.kill()
            if not settings:
                tell(recovery(worker, home, count))
    with filled_kafka(count // IDIOMATIC_PART) as (kafka, home):
        tell(idiomatic(kafka, home, count // IDIOMATIC_PART))


def tell(line: str) -> None:
    """Print a line at once: the whole takes minutes."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


@contextmanager
def filled_kafka(count: int) -> Iterator[tuple[LocalKafka, Path]]:
    """Run a Kafka whose source topic holds *count* events."""
    home = Path(tempfile.mkdtemp(prefix="tally-bench-"))
    kafka = LocalKafka(home / "kafka")
    kafka.start()
    try:
        create_topics(kafka.servers, load_settings({}))
        asyncio.run(fill(kafka.servers, count))
        yield kafka, home
    finally:
        kafka.stop()
        kafka.remove()
        shutil.rmtree(home, ignore_errors=True)


async def fill(servers: str, count: int) -> None:
    """Write *count* generated events into the source topic, 4 partitions, as a producer with the usual partitioner would."""
    producer = AIOKafkaProducer(bootstrap_servers=servers, acks="all", compression_type="lz4", max_batch_size=1 << 20)
    await producer.start()
    batches = {partition: producer.create_batch() for partition in range(4)}
    waiting = []
    for event in events(SEED, count=count):
        partition = partition_of(event.cookie, 4)
        if batches[partition].append(key=event.cookie, value=event.body, timestamp=None) is None:
            waiting.append(await producer.send_batch(batches[partition], USER_TAGS.topic, partition=partition))
            batches[partition] = producer.create_batch()
            batches[partition].append(key=event.cookie, value=event.body, timestamp=None)
    waiting += [await producer.send_batch(batch, USER_TAGS.topic, partition=number) for number, batch in batches.items()]
    await asyncio.gather(*waiting)
    await producer.stop()


def counter_of(worker: WorkerProcess) -> Callable[[], int]:
    """Return how many records a worker has counted, as a question to ask again."""
    return lambda: int(worker.metric("tally_events_total"))


def measure(name: str, process: subprocess.Popen[bytes] | None, count: int, counted: Callable[[], int]) -> str:
    """Wait until everything is counted and return a line of the table."""
    assert process is not None
    first = eventually(counted, within_s=WITHIN_S, what=f"{name}: the first event")
    started_s, cpu_s = SYSTEM_CLOCK.monotonic_s(), cpu_of(process.pid)
    eventually(lambda: counted() >= count, within_s=WITHIN_S, what=f"{name}: all events")
    wall_s, cpu_s = SYSTEM_CLOCK.monotonic_s() - started_s, cpu_of(process.pid) - cpu_s
    rest = count - first
    return f"{name:24} {cpu_s / rest * 1e6:8.2f} µs {rest / wall_s:10.0f} events/s   {memory_of(process.pid):6.0f} MiB"


def recovery(worker: WorkerProcess, home: Path, count: int) -> str:
    """Wipe a worker's disk, start it again, and return how long it took to be ready."""
    eventually(lambda: worker.process is not None and worker.process.poll() is not None, what="the worker ended")
    shutil.rmtree(home / "worker-0")
    started_s = SYSTEM_CLOCK.monotonic_s()
    worker.start()
    wall_s = SYSTEM_CLOCK.monotonic_s() - started_s
    assert worker.process is not None
    line = f"{'recovery, wiped disk':24} {wall_s:8.2f} s from process start to ready, {cpu_of(worker.process.pid):.2f} s CPU"
    worker.kill()
    return f"{line}: {count} events of state"


def idiomatic(kafka: LocalKafka, home: Path, count: int) -> str:
    """Run the idiomatic table on a smaller backlog."""
    port = free_port()
    names = {"BENCH_KAFKA_SERVERS": kafka.servers, "BENCH_DATA": str(home / "idiomatic"), "BENCH_WEB_PORT": str(port)}
    command = [sys.executable, "-m", "faust", "-A", "bench.idiomatic", "worker", "-l", "warn"]
    with subprocess.Popen(command, cwd=ROOT, env={**os.environ, **names}) as process:
        url = f"http://127.0.0.1:{port}/counted"
        try:
            return measure("idiomatic Faust table", process, count, lambda: int(get(url)[1]["counted"]))
        finally:
            process.kill()


def cpu_of(pid: int) -> float:
    """Return the CPU seconds of a process, all threads, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def memory_of(pid: int) -> float:
    """Return the resident memory of a process, MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


if __name__ == "__main__":
    main()
