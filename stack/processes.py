"""List what a job consists of: each process's command, address and priority; plain data, nothing starts here."""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stack.errors import StackError
from stack.manager import Program
from stack.ports import LOOPBACK
from stack.service import LocalService
from streams.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
WORKERS_MAX = 64
FAUST_LEVELS = {"DEBUG": "debug", "INFO": "info", "WARNING": "warn", "ERROR": "error"}

# The manager, ended by a signal, stops the greatest first: what sends, before what takes.
PRIORITIES = {"prometheus": 50, "kafka": 100, "postgres": 200, "sinks": 300, "worker": 400, "gateway": 500, "demo": 600}


@dataclass(frozen=True)
class Address:
    """Where a process listens, and the setting that says so."""

    host: str
    port: int
    setting: str

    @property
    def reachable_host(self) -> str:
        """A host that a client on this machine can connect to."""
        return {"0.0.0.0": LOOPBACK, "::": "::1", "": LOOPBACK}.get(self.host, self.host)  # noqa: S104 - compared, not bound

    @property
    def url(self) -> str:
        """URL without a path."""
        host = f"[{self.reachable_host}]" if ":" in self.reachable_host else self.reachable_host
        return f"http://{host}:{self.port}"


@dataclass(frozen=True)
class AppProcess:
    """One of our own processes: the program, and where its `/ready` is."""

    program: Program
    address: Address


def app_processes(settings: Settings, *, workers: int) -> list[AppProcess]:
    """Return sinks, *workers* workers and the gateway, in the order they are started."""
    addresses = [worker_address(settings, index) for index in range(workers)]
    return [
        AppProcess(_python("sinks", "-m", "sinks"), Address(settings.sinks.host, settings.sinks.port, "sinks.port")),
        *(AppProcess(_worker(settings, index, address), address) for index, address in enumerate(addresses)),
        AppProcess(_python("gateway", "-m", "gateway"), gateway_address(settings)),
    ]


def demo_program() -> Program:
    """Return the generator of traffic of `make demo`."""
    return _python("demo", "-m", "load", "demo")


def service_program(service: LocalService) -> Program:
    """Return how the manager runs a prepared *service*."""
    return Program(
        service.name,
        service.command(),
        service.directory,
        user=service.user,
        stop_signal=service.stop_signal,
        priority=PRIORITIES[service.name],
    )


def gateway_address(settings: Settings) -> Address:
    """Return where the front door listens."""
    return Address(settings.gateway.host, settings.gateway.port, "gateway.port")


def worker_address(settings: Settings, index: int) -> Address:
    """Return where the web views of worker *index* listen."""
    return Address(settings.web.host, settings.web.port + index, "web.port")


def targets_of(processes: Sequence[AppProcess]) -> dict[str, list[str]]:
    """Return the addresses that a Prometheus scrapes, by the name of its job: that of the kind of process."""
    targets: dict[str, list[str]] = {}
    for process in processes:
        job = f"tally-{process.program.name.partition('-')[0]}"
        targets.setdefault(job, []).append(process.address.url.removeprefix("http://"))
    return targets


def worker_urls(settings: Settings, workers: int) -> str:
    """Return the URLs of the workers that answer queries, comma separated: the user's, else those we start."""
    return settings.gateway.workers or ",".join(worker_address(settings, index).url for index in range(workers))


def check_addresses(addresses: Sequence[Address]) -> None:
    """Refuse to start when somebody else listens where one of our processes should.

    Raises:
        StackError: an address cannot be listened on; names the setting.
    """
    for address in addresses:
        if reason := _cannot_listen(address):
            variable = f"TALLY_{address.setting.replace('.', '_').upper()}"
            raise StackError(
                f"{address.setting}: cannot listen on {address.host}:{address.port} ({reason}); "
                f"end what listens there, or set {variable} to another port"
            )


def _cannot_listen(address: Address) -> str:
    try:
        family, kind, _, _, place = socket.getaddrinfo(
            address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
    except (OSError, OverflowError) as error:
        return getattr(error, "strerror", None) or str(error)
    return ""


def _python(name: str, *words: str, **environment: str) -> Program:
    kind = name.partition("-")[0]
    return Program(name, [sys.executable, *words], ROOT, environment=environment, priority=PRIORITIES[kind])


def _worker(settings: Settings, index: int, address: Address) -> Program:
    quiet = ["--quiet"] if settings.log.format == "json" else []  # Faust's banner is no JSON
    words = ["-m", "faust", *quiet, "-A", "pipeline", "worker", "-l", FAUST_LEVELS[settings.log.level]]
    words += ["--web-port", str(address.port)]
    return _python(f"worker-{index}", *words, TALLY_WORKER_INDEX=str(index))
