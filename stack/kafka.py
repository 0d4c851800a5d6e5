"""Run Apache Kafka on this machine: one KRaft node, broker and controller in one process, its own jars on a Java."""

from __future__ import annotations

import base64
import socket
import struct
import subprocess
import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from ssl import SSLContext

from stack.errors import StackError
from stack.jars import fetch_jars
from stack.java import find_java
from stack.ports import LOOPBACK, choose_port, read_ports, write_ports
from stack.progress import Say, say_nothing
from stack.service import LocalService, check_space

HEAP_MIB = 512
RECORD_BATCH_BYTES_MAX = 32 * 1024 * 1024
FORMAT_TIMEOUT_S = 60
PROBE_TIMEOUT_S = 1.0
# Kafka protocol, ApiVersions v0: length, api key 18, version 0, correlation id 1, no client id; the answer repeats the
# correlation id and says error code 0. A broker answers it as soon as it handles requests.
API_VERSIONS_REQUEST = struct.pack(">ihhih", 10, 18, 0, 1, -1)
API_VERSIONS_ANSWER = struct.pack(">ih", 1, 0)

LOG_CONFIG = """\
status = error
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{yyyy-MM-dd HH:mm:ss,SSS} %p %m (%c)%n
rootLogger.level = warn
rootLogger.appenderRef.console.ref = console
"""

SETTINGS: Mapping[str, object] = {
    "process.roles": "broker,controller",
    "node.id": 1,
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT",
    # A topic that nobody created is a mistake: Faust refuses a changelog whose partitions differ from its source's.
    "auto.create.topics.enable": "false",
    "offsets.topic.replication.factor": 1,
    "offsets.topic.num.partitions": 4,
    "transaction.state.log.replication.factor": 1,
    "transaction.state.log.min.isr": 1,
    "transaction.state.log.num.partitions": 4,
    "share.coordinator.state.topic.replication.factor": 1,
    "share.coordinator.state.topic.min.isr": 1,
    "min.insync.replicas": 1,
    # After a kill -9 the controller takes the broker's id for still in use until this session ends: 9 s otherwise.
    "broker.session.timeout.ms": 5_000,
    "broker.heartbeat.interval.ms": 1_000,
    # The wait for more members before the first rebalance, 3 s otherwise, only delays one machine's start.
    "group.initial.rebalance.delay.ms": 0,
    "message.max.bytes": RECORD_BATCH_BYTES_MAX,
    "replica.fetch.max.bytes": RECORD_BATCH_BYTES_MAX,
    # Retention as short as a minute must be seen to act (row A19).
    "log.initial.task.delay.ms": 5_000,
    "log.retention.check.interval.ms": 5_000,
    "log.segment.delete.delay.ms": 1_000,
    # The cleaner's usual 128 MiB would be a quarter of the heap; 32 MiB hold 1.2 million keys a pass.
    "log.cleaner.dedupe.buffer.size": 32 * 1024 * 1024,
}


def render_properties(*, port: int, controller_port: int, data: Path, proxied: tuple[int, int] | None = None) -> str:
    """Return the text of `server.properties` for a node on these ports of 127.0.0.1 with its logs in *data*.

    Args:
        proxied: a further listener's own port and the port that it tells its clients.
    """
    listeners = advertised = f"PLAINTEXT://{LOOPBACK}:{port},CONTROLLER://{LOOPBACK}:{controller_port}"
    if proxied:
        listeners += f",PROXIED://{LOOPBACK}:{proxied[0]}"
        advertised += f",PROXIED://{LOOPBACK}:{proxied[1]}"
    places = {
        "listeners": listeners,
        "advertised.listeners": advertised,
        "controller.quorum.bootstrap.servers": f"{LOOPBACK}:{controller_port}",
        "log.dirs": str(data).replace("\\", "\\\\"),
    }
    return "".join(f"{key}={value}\n" for key, value in {**SETTINGS, **places}.items())


class LocalKafka(LocalService):
    """One Kafka node with its data under *home*, listening on 127.0.0.1 only."""

    name = "kafka"

    def __init__(
        self, home: Path, *, port: int = 0, advertised_port: int = 0, heap_mib: int = HEAP_MIB, say: Say = say_nothing
    ) -> None:
        """Describe the node; nothing happens before `prepare`.

        Args:
            port: the wished port; 0 or taken: the one of last time, else a free one.
            advertised_port: that of a proxy before a second listener, on `proxied_port`: who comes through the proxy is
                told to stay there, everybody else is not. 0: no such listener.
            heap_mib: Java heap, MiB.
        """
        super().__init__(home, say=say)
        self.wished_port = port
        self.advertised_port = advertised_port
        self.heap_mib = heap_mib
        self.port = 0
        self.proxied_port = 0
        self._java: Path | None = None
        self._jars: list[Path] = []

    @property
    def servers(self) -> str:
        """Bootstrap servers; valid after `prepare`."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def data(self) -> Path:
        """Folder of the partitions' logs."""
        return self.home / "data"

    def prepare(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        check_space(self.home)
        self._java = find_java()
        self._jars = fetch_jars(say=self.say)
        self._choose_ports()
        (self.home / "log4j2.properties").write_text(LOG_CONFIG, encoding="utf-8")
        if not (self.data / "meta.properties").exists():
            self._format()

    def command(self) -> list[str]:
        return [*self._run_java("kafka.Kafka"), str(self._properties_file)]

    def is_ready(self) -> bool:
        return kafka_answers(self.servers)

    @property
    def _properties_file(self) -> Path:
        return self.home / "server.properties"

    def _choose_ports(self) -> None:
        if self.is_running():
            return
        path = self.home / "ports.json"
        remembered = read_ports(path)
        self.port = choose_port(self.wished_port, remembered.get("broker", 0))
        controller_port = choose_port(remembered.get("controller", 0))
        if self.wished_port not in (0, self.port):
            self.say(f"kafka: port {self.wished_port} is taken, using {self.port}")
        ports = {"broker": self.port, "controller": controller_port}
        if self.advertised_port:
            self.proxied_port = ports["proxied"] = choose_port(remembered.get("proxied", 0))
        write_ports(path, ports)
        proxied = (self.proxied_port, self.advertised_port) if self.advertised_port else None
        text = render_properties(port=self.port, controller_port=controller_port, data=self.data, proxied=proxied)
        self._properties_file.write_text(text, encoding="utf-8")

    def _format(self) -> None:
        cluster_id = base64.urlsafe_b64encode(b"\x00" + uuid.uuid4().bytes[1:]).decode("ascii").rstrip("=")
        command = [*self._run_java("kafka.tools.StorageTool"), "format", "--standalone", "--cluster-id", cluster_id]
        command += ["--config", str(self._properties_file)]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=FORMAT_TIMEOUT_S, check=False)
        if answer.returncode != 0:
            self.log_file.write_text(answer.stdout + answer.stderr, encoding="utf-8")
            raise StackError(f"kafka could not format {self.data} (log: {self.log_file})")

    def _run_java(self, main_class: str) -> list[str]:
        assert self._java is not None, "prepare first"
        return [
            str(self._java),
            f"-Xmx{self.heap_mib}m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-XX:+ExitOnOutOfMemoryError",
            "-Djava.awt.headless=true",
            f"-Dlog4j2.configurationFile={self.home / 'log4j2.properties'}",
            "-cp",
            ":".join(str(jar) for jar in self._jars),
            main_class,
        ]


def kafka_answers(servers: str, *, timeout_s: float = PROBE_TIMEOUT_S, tls: SSLContext | None = None) -> bool:
    """Return whether a broker of *servers* (host:port,host:port) handles requests; asks each for at most *timeout_s*.

    Its answer comes before any authentication.

    Spoken by hand, because a client of kafka-python that finds no broker leaves its sockets and its thread behind.
    """
    return any(_broker_answers(server, timeout_s, tls) for server in servers.split(","))


def _broker_answers(server: str, timeout_s: float, tls: SSLContext | None) -> bool:
    host, _, port = server.strip().rpartition(":")
    try:
        with ExitStack() as stack:
            connection = stack.enter_context(socket.create_connection((host, int(port)), timeout=timeout_s))
            if tls is not None:
                connection = stack.enter_context(tls.wrap_socket(connection, server_hostname=host))
            connection.sendall(API_VERSIONS_REQUEST)
            with connection.makefile("rb") as answer:
                return answer.read(len(API_VERSIONS_ANSWER) + 4)[4:] == API_VERSIONS_ANSWER
    except (OSError, ValueError):
        return False
