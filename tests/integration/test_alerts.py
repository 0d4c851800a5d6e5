"""Each alert that pages is seen firing on a running job, for a fault that was really made, by the rules that ship.

Time runs thirty times faster in the rules (`tests/support/alerting.py`): 15 minutes are 30 s. Expressions are untouched. One
job bears all faults in turn; each is mended, and the job well again, before the next.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import faust
import psycopg
import pytest
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient
from kafka.protocol.admin.client_quotas import AlterClientQuotasRequest

from stack.home import StackHome
from stack.manager import Manager
from stack.prometheus import find_prometheus
from stack.topics import topic_specs
from streams.settings import load_settings
from streams.topics import DEAD_LETTERS, USER_TAGS
from tests.fault.small_disk import SmallDisk, may_mount
from tests.integration.test_whole_job import produce, some_events
from tests.support.alerting import Alerts, judging
from tests.support.certificates import Certificates, end_authority, make_certificates
from tests.support.eventually import eventually
from tests.support.job import Door, Job
from tests.support.stack_fixtures import REQUIRE_VARIABLE
from tests.support.worker import get

FACTOR = 30
WITHIN_S = 90.0
WELL_WITHIN_S = 120.0
DISK_MIB = 192
DISK_LEFT = 0.08
"""Share of the worker's disk that the ballast leaves free."""
LINGERING = {"PartitionsMissing", "DeadLetterWriteFailing", "E2ELatencyHigh"}
"""Pages that need not have ended before the next fault: one is never mended, one tells of the past, and one has a threshold of
half a minute, which is a second here, while the job gathers rows for two as ever."""
PAUSE_S = 0.05
BACKLOG_EVENTS = 60_000
RESTORED_EVENTS = 450_000
"""Their rows are more than Kafka hands out in its first answer, which no quota holds back."""
COUNTED = 'sum(tally_events_total{result="counted"})'
FLOOD_RECORDS = 3_000
THROTTLED_BYTES_A_S = 64.0
WORKER_CLIENT = f"faust-{faust.__version__}"
"""What a worker calls itself to Kafka; quotas go by it."""
SETTINGS = {
    "TALLY_WORKER_SESSION_TIMEOUT_S": "6",
    "TALLY_WORKER_ACKNOWLEDGE_TIMEOUT_S": "55",
    "TALLY_WORKER_COMMIT_INTERVAL_S": "5",
    "TALLY_GATEWAY_ACKNOWLEDGE_TIMEOUT_S": "2",
    "TALLY_DEAD_LETTERS_WINDOW_RECORDS": "1000",
}


class Scene:
    """A job with traffic, and the Prometheus that watches it."""

    def __init__(self, job: Job, alerts: Alerts, disk: SmallDisk | None) -> None:
        self.job = job
        self.alerts = alerts
        self.disk = disk
        self.certificates = Certificates(Path(job.environ["PGSSLROOTCERT"]).parent)
        self.manager = Manager(StackHome(job.home))
        self.servers = job.services()["TALLY_KAFKA_SERVERS"]
        self.dsn = job.services()["TALLY_POSTGRES_DSN"]

    def see(self, *names: str, within_s: float = WITHIN_S, **labels: str) -> None:
        """Wait until each of these alerts fires."""
        for name in names:
            self.alerts.wait_for(name, within_s=within_s, **labels)

    def is_well(self) -> bool:
        """Say whether every process is ready and nobody is woken any more."""
        return self.alerts.pages() <= LINGERING and all(
            get(f"http://127.0.0.1:{port}/ready")[0] == 200 for port in ports_of(self.job).values()
        )

    @contextmanager
    def stopped(self, service: str) -> Iterator[None]:
        """Have a service of the job stopped inside the block."""
        self.manager.stop_processes([service])
        try:
            yield
        finally:
            self.manager.start_process(service)

    @contextmanager
    def refusing(self, topic: str) -> Iterator[None]:
        """Have Kafka refuse every record of a topic as too large inside the block."""
        usual = next(spec for spec in topic_specs(load_settings({})) if spec.name == topic).configs["max.message.bytes"]
        self._set_record_bytes_max(topic, "1")
        try:
            yield
        finally:
            self._set_record_bytes_max(topic, usual)

    @contextmanager
    def throttled(self, quota: str) -> Iterator[None]:
        """Let Kafka give the worker, or take from it, next to nothing; kafka-python's client has no call for quotas."""
        self._set_quota(quota, THROTTLED_BYTES_A_S)
        try:
            yield
        finally:
            self._set_quota(quota, None)

    def _set_quota(self, quota: str, bytes_a_s: float | None) -> None:
        op = (quota, bytes_a_s or 0.0, bytes_a_s is None)
        request = AlterClientQuotasRequest(entries=[([("client-id", WORKER_CLIENT)], [op])], validate_only=False)
        with closing(KafkaAdminClient(bootstrap_servers=self.servers)) as admin:
            admin._manager.run(admin._send_request_to_controller, request)

    def _set_record_bytes_max(self, topic: str, size: str) -> None:
        with closing(KafkaAdminClient(bootstrap_servers=self.servers)) as admin:
            admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, {"max.message.bytes": size})])

    def produce(self, count: int) -> None:
        asyncio.run(produce(self.servers, count, seed=count))


def ports_of(job: Job) -> dict[str, int]:
    return {
        "tally-gateway": job.port,
        "tally-worker": int(job.environ["TALLY_WEB_PORT"]),
        "tally-sinks": int(job.environ["TALLY_SINKS_PORT"]),
    }


@contextmanager
def trickle(job: Job) -> Iterator[None]:
    """Send one event after another, whatever becomes of them."""
    stop = threading.Event()

    def send() -> None:
        bodies = (event for _, event in some_events(1_000_000, seed=1))
        with closing(Door(job.port)) as door:
            while not stop.wait(PAUSE_S):
                with suppress(OSError, Exception):
                    door.ask("POST", "/user_tags", next(bodies))

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


# -- faults, in the order they are made


def disk_nearly_full(scene: Scene) -> None:
    """A tenth of the worker's disk is the limit; nothing is harmed yet."""
    if scene.disk is None:
        return
    ballast = scene.disk.path / "ballast"
    ballast.write_bytes(bytes(int(scene.disk.free_bytes - DISK_LEFT * (DISK_MIB << 20))))
    scene.see("StateDiskFull")
    ballast.unlink()


def certificate_ended_and_rollups_locked(scene: Scene) -> None:
    """Nobody renewed what the sinks and the worker would verify a Postgres with TLS by; and somebody holds a lock."""
    with psycopg.connect(scene.dsn) as connection:
        connection.execute("LOCK TABLE tally.hour_cells_rolled IN ACCESS EXCLUSIVE MODE")
        end_authority(scene.certificates)
        for job in ("tally-sinks", "tally-worker"):
            scene.see("CertificateExpires", job=job, file="postgres_ca")
        make_certificates(scene.certificates.folder)
        scene.see("RollupsStalled")


def dead_letters_refused(scene: Scene) -> None:
    """One record that nobody can count, and Kafka that does not take it: the worker stops again and again."""
    with scene.refusing(DEAD_LETTERS):
        asyncio.run(send_bad(scene.servers, 1))
        scene.see("DeadLetterWriteFailing", reason="dead_letter_write")


def postgres_stopped_and_worker_starved(scene: Scene) -> None:
    """Two faults that do not touch each other: the sinks have no Postgres, and Kafka takes nothing from the worker."""
    with scene.throttled("producer_byte_rate"), scene.stopped("postgres"):
        scene.produce(BACKLOG_EVENTS)
        scene.see("PostgresDown", "SinkStale")
        scene.see("NotReady", job="tally-sinks")
        scene.see("ConsumerStalled", "LagCritical", "SinkLagCritical")


def worker_paused(scene: Scene) -> None:
    """A stopped process holds its connections and says nothing: only from outside is it seen."""
    (pid,) = scene.job.pids("-m faust", "worker")
    os.kill(pid, signal.SIGSTOP)
    try:
        scene.see("TargetDown", job="tally-worker")
        scene.see("NoWorkerForQueries", "PartitionsUnowned")
    finally:
        os.kill(pid, signal.SIGCONT)


def kafka_paused(scene: Scene) -> None:
    """It holds its connections and answers nothing, in the middle of a backlog: counted buckets wait for their commit."""
    for last in (False, False, True):
        scene.produce(BACKLOG_EVENTS)
        (pid,) = scene.job.pids("kafka.Kafka")
        os.kill(pid, signal.SIGSTOP)
        try:
            scene.see("KafkaDown", "GatewayErrors")
            scene.see("CommitStalled", within_s=WITHIN_S if last else FACTOR)
        except AssertionError:  # a commit was made just before: another backlog
            if last:
                raise
        else:
            return
        finally:
            os.kill(pid, signal.SIGCONT)


def recovery_starved(scene: Scene) -> None:
    """The worker has lost its disk, and Kafka hands its changelogs out by the spoonful."""
    counted = scene.alerts.value(COUNTED)
    scene.produce(RESTORED_EVENTS)
    eventually(lambda: scene.alerts.value(COUNTED) >= counted + RESTORED_EVENTS, within_s=WITHIN_S, what="all counted")
    scene.manager.stop_processes(["worker-0"])
    folder = scene.job.home / "worker-0"
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with scene.throttled("consumer_byte_rate"):
        scene.manager.start_process("worker-0")
        scene.see("RecoveryStuck", "RecoveryTooLong")


def flood_of_dead_letters(scene: Scene) -> None:
    """More than half of the last thousand are no events: the worker stops, and what knew why is gone with it."""
    asyncio.run(send_bad(scene.servers, FLOOD_RECORDS))
    scene.see("DeadLetterLimit")


FAULTS: list[Callable[[Scene], None]] = [
    disk_nearly_full,
    certificate_ended_and_rollups_locked,
    dead_letters_refused,
    postgres_stopped_and_worker_starved,
    worker_paused,
    kafka_paused,
    recovery_starved,
    flood_of_dead_letters,
]


async def send_bad(servers: str, count: int) -> None:
    """Write records into one partition of the source that nobody can count."""
    from aiokafka import AIOKafkaProducer

    async with AIOKafkaProducer(bootstrap_servers=servers) as producer:
        for _ in range(count):
            await producer.send(USER_TAGS.topic, b"no event", partition=0)


def drop_days_ahead(dsn: str) -> None:
    """Take tomorrow's partition and those after it away, as a careless hand would; today's stays."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        names = connection.execute(
            "SELECT relname FROM pg_inherits JOIN pg_class ON oid = inhrelid WHERE inhparent = 'tally.minute_cells'::regclass"
            " AND relname > 'minute_cells_' || to_char(now() AT TIME ZONE 'UTC', 'YYYY_MM_DD')"
        ).fetchall()
        assert names
        for (name,) in names:
            connection.execute(f"DROP TABLE tally.{name}")


@pytest.fixture
def scene() -> Iterator[Scene]:
    """The job, its worker on a small disk where this machine lets one be mounted; without Prometheus the test is skipped."""
    if find_prometheus() is None:
        if os.environ.get(REQUIRE_VARIABLE) == "1":
            pytest.fail("prometheus is required and not on the path")
        pytest.skip("NO PROMETHEUS: no alert is seen firing")
    folder = Path(tempfile.mkdtemp(prefix="tally-alerts-"))
    authority = make_certificates(folder / "certificates").authority
    job = Job(folder / "home", settings={**SETTINGS, "PGSSLROOTCERT": str(authority)})
    disk = SmallDisk(job.home / "worker-0", size_mib=DISK_MIB) if may_mount() else None
    try:
        if disk is not None:
            job.home.mkdir(parents=True)
            disk.mount()
        job.start()
        targets = {name: [f"127.0.0.1:{port}"] for name, port in ports_of(job).items()}
        with judging(folder / "prometheus", targets, factor=FACTOR) as alerts, trickle(job):
            yield Scene(job, alerts, disk)
    finally:
        job.end()
        if disk is not None:
            disk.unmount()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.timeout(900)
def test_alerts_that_page_fire_for_the_faults_they_are_for(scene: Scene) -> None:
    """An alert that was only ever true in a test file may ask for what no process shows, or never be reached in time."""
    eventually(lambda: scene.alerts.value("min(tally_ready)") == 1, within_s=WITHIN_S, what="all scraped, all ready")
    eventually(lambda: not scene.alerts.pages(), within_s=WITHIN_S, what="nobody woken by a job that is well")
    drop_days_ahead(scene.dsn)
    for fault in FAULTS:
        fault(scene)
        if fault is not FAULTS[-1]:
            eventually(scene.is_well, within_s=WELL_WITHIN_S, what=f"the job well after {fault.__name__}")
    scene.see("PartitionsMissing", table="minute_cells")
    if scene.disk is None:
        pytest.skip("NO MOUNT: every alert but StateDiskFull was seen")
