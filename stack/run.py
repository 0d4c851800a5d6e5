"""Run the whole job: services, topics, migrations, our processes; watch over them; stop all of it in order."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType

from stack.errors import StackError
from stack.home import StackHome
from stack.kafka import LocalKafka, kafka_answers
from stack.leftovers import MARK, stop_leftovers
from stack.manager import Manager, ManagerLostError, Program
from stack.postgres import LocalPostgres, postgres_answers
from stack.processes import (
    ROOT,
    AppProcess,
    app_processes,
    check_addresses,
    demo_program,
    gateway_address,
    service_program,
    targets_of,
    worker_urls,
)
from stack.progress import Say, say
from stack.prometheus import PROGRAM as PROMETHEUS
from stack.prometheus import LocalPrometheus, find_prometheus
from stack.readiness import Readiness, describe_end
from stack.service import LocalService, check_space, die_with_parent, last_lines
from stack.topics import create_topics
from streams.kafka_access import tls_context
from streams.settings import Settings

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
WATCH_INTERVAL_S = 1.0
SERVICE_POLL_S = 0.1
MIGRATE_TIMEOUT_S = 300.0
KAFKA_TIMEOUT_S = 10.0


class StopRequested(BaseException):
    """The user wants the job to stop."""


@dataclass(frozen=True)
class Plan:
    """What to run.

    Attributes:
        workers: number of worker processes.
        services_only: Kafka, Postgres, topics and migrations, and none of our processes.
        demo: generated traffic as well.
        observe: a Prometheus as well, where there is one.
    """

    workers: int = 1
    services_only: bool = False
    demo: bool = False
    observe: bool = False


def run(settings: Settings, plan: Plan) -> None:
    """Run the job in the foreground until SIGINT, SIGTERM or SIGHUP, then stop it in order.

    Raises:
        StackError: it cannot start, or cannot go on; everything is stopped by then.
    """
    home = StackHome(settings.stack.home)
    stops = _StopSignals()
    with stops.raising(), home.locked(gateway_address(settings).url):
        job = Job(home, settings, plan)
        try:
            job.start()
            job.watch(is_stopping=lambda: stops.requested)
        except StopRequested:
            pass
        finally:
            stops.defer()
            job.stop()


class Job:
    """All processes of one run."""

    def __init__(self, home: StackHome, settings: Settings, plan: Plan, *, say: Say = say) -> None:
        self._home = home
        self._settings = settings
        self._plan = plan
        self._say = say
        self._manager = Manager(home)
        self._apps: list[AppProcess] = [] if plan.services_only else app_processes(settings, workers=plan.workers)
        self._services: list[LocalService] = []
        self._prometheus: LocalPrometheus | None = None
        self._servers = settings.kafka.servers
        self._dsn = settings.postgres.dsn

    def start(self) -> None:
        """Start everything and return when all of it is ready; says so in one line.

        Raises:
            StackError: something does not start; `stop` stops the rest.
        """
        self._home.make()
        stop_leftovers(self._home.path, say=self._say)
        check_space(self._home.path)
        check_addresses([process.address for process in self._apps])
        self._prepare_services()
        self._manager.start(self._programs(), self._environment())
        self._start_services()
        self._home.write_environment({"TALLY_KAFKA_SERVERS": self._servers, "TALLY_POSTGRES_DSN": self._dsn})
        self._create_topics()
        self._migrate()
        self._start_apps()
        if self._plan.services_only:
            self._say(f"kafka and postgres are ready: {self._servers}, {self._home.environment_file}")
        else:
            if self._prometheus is not None:
                self._say(f"prometheus is ready: {self._prometheus.url}/alerts")
            self._say(f"tally is ready: {gateway_address(self._settings).url}")

    def watch(self, *, is_stopping: Callable[[], bool]) -> None:
        """Tell of processes that end and start again, until a stop is asked for.

        The question is asked beside the exception that a stop raises: a library in between may swallow that.

        Raises:
            ManagerLostError: the process manager is gone, so nothing would be started again.
        """
        states = self._manager.states()
        while not is_stopping():
            time.sleep(WATCH_INTERVAL_S)
            now = self._manager.states()
            for name, state in now.items():
                if line := describe_end(name, states[name], state):
                    self._say(f"{line} (log: {self._home.log / name}.log)")
            # A process between two lives keeps its last pid here, so that its next one is no second end.
            states = now

    def stop(self) -> None:
        """Stop what runs, in order: what sends before what takes. Never raises for what is gone already."""
        self._home.environment_file.unlink(missing_ok=True)
        with suppress(ManagerLostError):
            for names in self._stop_order():
                running = [name for name, state in self._manager.states().items() if name in names and not state.is_stopped]
                if running:
                    self._say(f"stopping {', '.join(running)}")
                    self._manager.stop_processes(running)
        was_started = self._manager.is_alive()
        self._manager.shut_down()
        stop_leftovers(self._home.path, say=self._say)
        if was_started:
            self._say("stopped")

    def _stop_order(self) -> list[list[str]]:
        workers = [process.program.name for process in self._apps if process.program.name.startswith("worker-")]
        return [["demo", PROMETHEUS], ["gateway"], workers, ["sinks"], ["postgres"], ["kafka"]]

    def _prepare_services(self) -> None:
        stack = self._settings.stack
        if self._servers:
            self._say(f"kafka: using {self._servers}")
            if not kafka_answers(self._servers, timeout_s=KAFKA_TIMEOUT_S, tls=tls_context(self._settings.kafka)):
                raise StackError(f"kafka.servers: no Kafka answers at {self._servers}")
        else:
            if self._settings.kafka.security_protocol != "PLAINTEXT":
                raise StackError(
                    "kafka.security_protocol: the local Kafka speaks PLAINTEXT only; name your own by kafka.servers"
                )
            kafka = LocalKafka(self._home.path / "kafka", port=stack.kafka_port, heap_mib=stack.kafka_heap_mib, say=self._say)
            kafka.prepare()
            self._servers = kafka.servers
            self._services.append(kafka)
        if self._dsn:
            self._say("postgres: using your own")
            if not postgres_answers(self._dsn):
                raise StackError("postgres.dsn: your Postgres does not answer or does not let us in")
        else:
            postgres = LocalPostgres(self._home.path / "postgres", port=stack.postgres_port, say=self._say)
            postgres.prepare()
            self._dsn = postgres.dsn
            self._services.append(postgres)
        if self._plan.observe:
            self._prepare_prometheus()

    def _prepare_prometheus(self) -> None:
        if find_prometheus() is None:
            self._say("prometheus: none on the path, so nothing judges the alerts; Debian has it in the package prometheus")
            return
        self._prometheus = LocalPrometheus(self._home.path / PROMETHEUS, targets_of(self._apps), say=self._say)
        self._prometheus.prepare()
        self._services.append(self._prometheus)

    def _programs(self) -> list[Program]:
        programs = [service_program(service) for service in self._services]
        programs += [process.program for process in self._apps]
        return [*programs, demo_program()] if self._plan.demo else programs

    def _environment(self) -> dict[str, str]:
        """Return the environment of every process: the user's settings, and the addresses of this run."""
        environment = {name: value for name, value in os.environ.items() if name != "TALLY_POSTGRES_DSN_FILE"}
        return environment | {
            "TALLY_KAFKA_SERVERS": self._servers,
            "TALLY_POSTGRES_DSN": self._dsn,
            "TALLY_STACK_HOME": str(self._home.path),
            "TALLY_GATEWAY_WORKERS": worker_urls(self._settings, self._plan.workers),
            # All of it ends together: nobody needs time to look elsewhere.
            "TALLY_GATEWAY_DRAIN_S": "0",
            "TALLY_WORKER_DRAIN_S": "0",
            "PYTHONUNBUFFERED": "1",
            MARK: str(self._home.path),
        }

    def _start_services(self) -> None:
        for service in self._services:
            self._say(f"starting {service.name}")
            self._manager.start_process(service.name)
        for service in self._services:
            service.log_file = self._home.log / f"{service.name}.log"
            service.wait_ready(self._settings.stack.ready_timeout_s)
            self._say(f"{service.name} is ready")

    def _create_topics(self) -> None:
        if created := create_topics(self._servers, self._settings):
            self._say(f"created topics {', '.join(created)}")

    def _migrate(self) -> None:
        self._say("bringing the database up to date")
        log_file = self._home.log / "migrate.log"
        with log_file.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "sinks", "migrate"],
                cwd=ROOT,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent(signal.SIGTERM),  # noqa: PLW1509 - one C call, safe after a fork
            )
            try:
                status = process.wait(MIGRATE_TIMEOUT_S)
            finally:
                process.kill()
                process.wait()
        if status != 0:
            lines = last_lines(log_file, 1) or ["it wrote nothing"]
            raise StackError(f"the migrations failed: {lines[-1]} (log: {log_file})")

    def _start_apps(self) -> None:
        if not self._apps:
            return
        self._say("starting " + ", ".join(process.program.name for process in self._apps))
        for process in self._apps:
            self._manager.start_process(process.program.name)
        Readiness(self._home, self._manager, say=self._say).wait(self._apps, self._settings.stack.ready_timeout_s)
        if self._plan.demo:
            self._manager.start_process("demo")


class _StopSignals:
    """Turn the first stop signal into StopRequested; once stopping, only say that we are at it."""

    def __init__(self) -> None:
        self._deferred = False
        self.requested = False

    @contextmanager
    def raising(self) -> Iterator[None]:
        """Watch for stop signals inside the block."""
        before = {number: signal.signal(number, self._handle) for number in STOP_SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def defer(self) -> None:
        """From now on stop signals interrupt nothing."""
        self._deferred = True

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._deferred:
            say("still stopping")
            return
        self._deferred = self.requested = True
        raise StopRequested
