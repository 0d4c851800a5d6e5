"""The system under test: Kafka, Postgres, and our processes under the product's manager; and the hands that break it."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sinks.migrate import migrate
from stack.home import StackHome
from stack.kafka import LocalKafka
from stack.leftovers import MARK, processes_of
from stack.manager import Manager, Program, render_config
from stack.ports import LOOPBACK, write_ports
from stack.postgres import LocalPostgres
from stack.processes import app_processes, worker_urls
from stack.progress import Say
from stack.readiness import not_ready_reason
from stack.service import LocalService
from stack.topics import create_topics
from streams.settings import load_settings
from tests.fault import FAIL_POINT_VARIABLE
from tests.fault.evidence import Mark
from tests.fault.ledger import Ledger
from tests.fault.load import LOAD, Load, cookies_for
from tests.fault.observer import Observer, ask, metrics_of
from tests.fault.ports import ports_in_a_row
from tests.support.eventually import eventually
from tests.support.proxy import Proxy

READY_WITHIN_S = 60.0
ENDED_WITHIN_S = 10.0
KILL_ROUNDS = 5
GATEWAY, SINKS, KAFKA, POSTGRES = "gateway", "sinks", "kafka", "postgres"


@dataclass(frozen=True, kw_only=True)
class System:
    """What runs, and who comes through a proxy.

    Attributes:
        workers: started at first; workers_max: how many there may be, all of them known to the gateway.
        app: what the workers run; `tests.fault.failpoints` is the product's with points to fail at.
        kafka_proxy_of: names of processes that see Kafka through `stage.kafka_proxy`: gateway, sinks, worker-0, …, load.
        postgres_proxy_of: whether the sinks see Postgres through `stage.postgres_proxy`.
        settings: of all processes, `TALLY_SECTION_KEY`.
        settings_long: besides, for `LONG=1`.
    """

    workers: int = 1
    workers_max: int = 0
    partitions: int = 4
    app: str = "pipeline"
    kafka_proxy_of: tuple[str, ...] = ()
    postgres_proxy: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)
    settings_long: Mapping[str, str] = field(default_factory=dict)


FASTER = {
    "TALLY_WORKER_SESSION_TIMEOUT_S": "6",
    "TALLY_SINKS_FLUSH_INTERVAL_S": "0.5",
    "TALLY_GATEWAY_DRAIN_S": "0",
    "TALLY_WORKER_DRAIN_S": "0",
    "TALLY_GATEWAY_QUERIES_WAITING_MAX": "0",
}
"""Settings of every case: a shorter wait for what is waited for often, and none where the observer wants to see silence."""


class Stage:
    """One system in *home*. A process is known by its name: worker-0, …, gateway, sinks, kafka, postgres.

    Attributes:
        chance: draws the fault's schedule; the same for the same seed.
        is_long: sizes of releases, not of CI.
        say: tells what happens, one line at a time.
        kafka, postgres: the services, with `start`, `stop` and `kill`.
        kafka_proxy, postgres_proxy: in front of them, for those that the system sends there.
        load, ledger, observer: the traffic, what is known of it, and what was seen of the system.
        temporary: where our processes are told to put temporary files.
        marks: when it was disturbed or healed.
    """

    def __init__(self, home: Path, system: System, *, seed: int, is_long: bool, say: Say) -> None:
        self.home = home
        self.system = system
        self.seed = seed
        self.chance = random.Random(seed)
        self.is_long = is_long
        self.say = say
        self.workers_max = max(system.workers, system.workers_max)
        names = (GATEWAY, SINKS, KAFKA, POSTGRES, "proxied", "proxy")
        first = ports_in_a_row(len(names) + self.workers_max)
        ports = {name: first + number for number, name in enumerate(names)}
        self.gateway_port, self.sinks_port, self._proxied_port = ports[GATEWAY], ports[SINKS], ports["proxied"]
        self.worker_ports = range(first + len(names), first + len(names) + self.workers_max)
        self.kafka_proxy = Proxy(self._proxied_port, port=ports["proxy"])
        self.kafka = LocalKafka(home / KAFKA, port=ports[KAFKA], advertised_port=ports["proxy"])
        self.postgres = LocalPostgres(home / POSTGRES, port=ports[POSTGRES])
        self.postgres_proxy = Proxy(ports[POSTGRES])
        self.ledger = Ledger()
        self.marks: list[Mark] = []
        self.temporary = home / "temporary"
        self._fail_point = home / "fail-point"
        self._stack_home = StackHome(home)
        self._manager = Manager(self._stack_home)
        self._closing = ExitStack()

    # -- start and end

    def start(self, *, events: int) -> None:
        """Start everything for about *events* and return when all of it is ready."""
        self._stack_home.make()
        self.temporary.mkdir()
        self.ledger = Ledger(self.home / "ledger.jsonl")
        self.on_close(self.ledger.close)
        self._start_services()
        create_topics(self.kafka.servers, load_settings(self._environment()))
        migrate(self.postgres.dsn)
        self._start_apps()
        servers = self._servers_of(LOAD)
        self.load = Load(self.ledger, servers=servers, port=self.gateway_port, seed=self.seed, cookies=cookies_for(events))
        self.on_close(self.load.close)
        self.load.start()
        self.observer = Observer(
            port=self.gateway_port,
            dsn=self.postgres.dsn,
            worker_ports=self.worker_ports,
            acknowledged=lambda: self.ledger.acknowledged,
        )
        self.on_close(self.observer.close)
        self.observer.start()

    def on_close(self, undo: Callable[[], Any]) -> None:
        """Call *undo* when the stage is closed, before what was registered earlier."""
        self._closing.callback(undo)

    def close(self) -> None:
        """Kill whatever runs, and undo all; the home stays."""
        with self._closing:
            self._kill_everything()

    def remove(self) -> None:
        """Remove the home of a closed stage."""
        self.postgres.remove()
        shutil.rmtree(self.home, ignore_errors=True)

    def _start_services(self) -> None:
        for proxy in (self.kafka_proxy, self.postgres_proxy):
            self.on_close(proxy.stop)
            proxy.start()
        self.kafka.home.mkdir(parents=True, exist_ok=True)
        write_ports(self.kafka.home / "ports.json", {"proxied": self._proxied_port})  # it is "that of last time"
        for service in (self.kafka, self.postgres):
            self.on_close(service.kill)
            service.start()

    def _start_apps(self) -> None:
        self._manager.start(self._programs(), self._environment() | {MARK: str(self.home)})
        self.on_close(self._manager.shut_down)
        for name in (SINKS, *self.workers(), GATEWAY):
            self._manager.start_process(name)
        self.wait_ready(SINKS, *self.workers(), GATEWAY)

    def _programs(self) -> list[Program]:
        settings = load_settings(self._environment())
        return [self._program(process.program) for process in app_processes(settings, workers=self.workers_max)]

    def _program(self, program: Program) -> Program:
        """Return the product's own command, in the case's surroundings."""
        environment = dict(program.environment)
        environment["TALLY_KAFKA_SERVERS"] = self._servers_of(program.name)
        if self.system.postgres_proxy:
            here, there = (f"@{LOOPBACK}:{port}/" for port in (self.postgres.port, self.postgres_proxy.port))
            environment["TALLY_POSTGRES_DSN"] = self.postgres.dsn.replace(here, there)
        command = [self.system.app if word == "pipeline" else word for word in program.command]
        return replace(program, command=command, environment=environment)

    def _servers_of(self, name: str) -> str:
        return f"{LOOPBACK}:{self.kafka_proxy.port}" if name in self.system.kafka_proxy_of else self.kafka.servers

    def _environment(self) -> dict[str, str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TALLY_")}
        environment |= {
            **FASTER,
            "TALLY_KAFKA_SERVERS": self.kafka.servers,
            "TALLY_POSTGRES_DSN": self.postgres.dsn,
            "TALLY_STACK_HOME": str(self.home),
            "TALLY_GATEWAY_PORT": str(self.gateway_port),
            "TALLY_SINKS_PORT": str(self.sinks_port),
            "TALLY_WEB_PORT": str(self.worker_ports[0]),
            "TALLY_TOPICS_PARTITIONS": str(self.system.partitions),
            "PYTHONUNBUFFERED": "1",
            "TMPDIR": str(self.temporary),
            FAIL_POINT_VARIABLE: str(self._fail_point),
            "PYTHONPATH": os.pathsep.join(path for path in (str(Path.cwd()), os.environ.get("PYTHONPATH", "")) if path),
            **self.system.settings,
            **(self.system.settings_long if self.is_long else {}),
        }
        environment["TALLY_GATEWAY_WORKERS"] = worker_urls(load_settings(environment), self.workers_max)
        return environment

    def _kill_everything(self) -> None:
        for _ in range(KILL_ROUNDS):  # the manager may have started one more meanwhile
            for pid in processes_of(self.home):
                _send(pid, signal.SIGKILL)
        eventually(lambda: not processes_of(self.home), within_s=ENDED_WITHIN_S, what="every process of the case ended")

    # -- what runs

    def workers(self, count: int = 0) -> list[str]:
        """Return the names of the first *count* workers; 0: of those that are started at first."""
        return [f"worker-{index}" for index in range(count or self.system.workers)]

    def process_names(self) -> list[str]:
        """Return the names of all processes of ours, those that do not run now too."""
        return [*self.workers(self.workers_max), GATEWAY, SINKS]

    def port_of(self, name: str) -> int:
        """Return where a process of ours answers HTTP."""
        ports = {GATEWAY: self.gateway_port, SINKS: self.sinks_port}
        return ports[name] if name in ports else self.worker_ports[int(name.removeprefix("worker-"))]

    def pid(self, name: str) -> int:
        """Return the process id; 0 while it does not run."""
        service = self._service(name)
        if service is not None:
            return service._process.pid if service._process is not None and service.is_running() else 0
        return self._manager.states()[name].pid

    def ends_of(self, name: str) -> list[str]:
        """Return how one of our processes has ended so far, each time that the manager did not ask it to."""
        return re.findall(rf"exited: {name} \((.*); not expected\)", self.log_of("supervisord"))

    def is_ready(self, name: str) -> bool:
        """Say whether `/ready` of a process is 200."""
        return not not_ready_reason(f"http://{LOOPBACK}:{self.port_of(name)}")

    def wait_ready(self, *names: str, within_s: float = READY_WITHIN_S) -> None:
        """Return when all of them are ready."""
        for name in names:
            eventually(lambda name=name: self.is_ready(name), within_s=within_s, what=f"{name} ready")  # type: ignore[misc]

    def metric(self, name: str, metric: str) -> float:
        """Return a metric of a process, its series added up; 0 where it does not answer."""
        values = metrics_of(self.port_of(name))
        return float(values[metric]) if values else 0.0

    def ask(self, name: str, target: str, *, method: str = "GET") -> tuple[int, bytes]:
        """Return status and body of a request to a process; 0 where there was no answer in time."""
        return ask(self.port_of(name), target, method=method)

    def log_of(self, name: str) -> str:
        """Return what a process has logged, all of its lives."""
        service = self._service(name)
        path = service.log_file if service is not None else self._stack_home.log / f"{name}.log"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    @property
    def logs(self) -> list[Path]:
        """Logs of our own processes."""
        return sorted(path for path in self._stack_home.log.glob("*.log*") if not path.name.startswith("supervisord"))

    def _service(self, name: str) -> LocalService | None:
        services: dict[str, LocalService] = {KAFKA: self.kafka, POSTGRES: self.postgres}
        return services.get(name)

    # -- the hands

    def mark(self, what: str) -> None:
        """Note, and tell, that the system is disturbed or healed now: the time to recover counts from the last mark."""
        self.marks.append(Mark(time.monotonic(), self.ledger.acknowledged, what))
        self.say(what)

    def sleep(self, seconds: float) -> None:
        """Let the load go on for so long."""
        time.sleep(seconds)  # a fault lasts for a time; what has to come true is waited for by `wait_until`

    def kill(self, *names: str) -> None:
        """SIGKILL, all at once; the manager starts ours again at once, a service stays down until its `start`."""
        self.mark(f"kill -9 {', '.join(names)}")
        pids = [self.pid(name) for name in names]
        for pid in pids:
            _send(pid, signal.SIGKILL)
        for name in names:
            service = self._service(name)
            if service is not None:
                service.kill()
        eventually(lambda: not any(map(_runs, pids)), within_s=ENDED_WITHIN_S, what=f"{names} ended")

    def start_service(self, name: str) -> None:
        """Start a service that was killed, stopped, or has ended; changes nothing for one that runs."""
        service = self._service(name)
        if service is not None and not service.is_running():
            self.mark(f"start {name}")
            service.start()

    def pause(self, name: str) -> None:
        """SIGSTOP: it goes on existing, its connections stay open, and it does nothing."""
        self.mark(f"pause {name}")
        _send(self.pid(name), signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """SIGCONT; changes nothing for a process that was not paused."""
        self.mark(f"resume {name}")
        _send(self.pid(name), signal.SIGCONT)

    def stop(self, name: str) -> float:
        """Stop one of our processes as an operator would, and return how long that took, seconds."""
        self.mark(f"stop {name}")
        started_s = time.monotonic()
        self._manager.stop_processes([name])
        return time.monotonic() - started_s

    def start_again(self, *names: str) -> None:
        """Start stopped processes of ours and return when they are ready."""
        self.mark(f"start {', '.join(names)}")
        for name in names:
            self._manager.start_process(name)
        self.wait_ready(*names)

    def start_with(self, name: str, **settings: str) -> None:
        """Stop one of our processes, give it settings (`TALLY_SECTION_KEY`) besides, and start it, as an operator would."""
        self.stop(name)
        self.mark(f"settings of {name}: {settings or 'the usual ones'}")
        programs = [
            replace(program, environment={**program.environment, **settings}) if program.name == name else program
            for program in self._programs()
        ]
        self._stack_home.manager_config.write_text(render_config(self._stack_home, programs), encoding="utf-8")
        for method, *arguments in (("reloadConfig",), ("removeProcessGroup", name), ("addProcessGroup", name)):
            self._manager._ask(method, *arguments)
        self.start_again(name)

    def wipe(self, name: str) -> None:
        """Lose the disk of a worker that is stopped or paused."""
        self.mark(f"remove the disk of {name}")
        shutil.rmtree(self.home / name)

    def terminate(self, name: str) -> None:
        """SIGTERM by somebody else than the manager, which starts it again."""
        self.mark(f"SIGTERM {name}")
        _send(self.pid(name), signal.SIGTERM)

    def lose_disk(self, *names: str) -> None:
        """Kill workers and remove their disks before they are started again."""
        for name in names:
            self.pause(name)
        for name in names:
            self.wipe(name)
        self.kill(*names)

    def arm(self, point: str) -> None:
        """Arm a point that workers fail at, as long as it is armed."""
        self._fail_point.write_text(point, encoding="utf-8")
        self.mark(f"armed {point!r}")

    def disarm(self) -> None:
        """Let workers fail no more; a second call does nothing."""
        self._fail_point.unlink(missing_ok=True)

    def fail_at(self, point: str, *, within_s: float = 30.0) -> None:
        """Arm a point of `tests.fault.failpoints`, and return when a worker has reached it."""
        reached = self._fail_point.with_suffix(".reached")
        reached.unlink(missing_ok=True)
        self._fail_point.write_text(point, encoding="utf-8")
        eventually(reached.exists, within_s=within_s, what=f"a worker at the point {point!r}")
        self.mark(f"reached the point {point!r}")

    def wait_until(self, condition: Callable[[], object], what: str, *, within_s: float = 30.0) -> None:
        """Return as soon as *condition* holds; an exception of it counts as not yet."""
        eventually(condition, within_s=within_s, what=what)


def _send(pid: int, number: signal.Signals) -> None:
    if pid:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _runs(pid: int) -> bool:
    """Say whether a process runs; a zombie does not."""
    try:
        return bool(pid) and Path(f"/proc/{pid}/cmdline").read_bytes() != b""
    except OSError:
        return False
