"""The system as its users see it: the front door, traffic for it, and `make run` as a process."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import subprocess
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from stack.home import StackHome
from stack.kafka import LocalKafka
from stack.ports import free_port, is_free
from stack.topics import create_topics
from streams.settings import Settings, load_settings
from tests.support.builders import record_bytes
from tests.support.eventually import eventually

ROOT = Path(__file__).parents[2]
ALWAYS = "1970-01-01T00:00:00_9999-12-31T23:59:59.999"
ANSWER_TIMEOUT_S = 60.0
CONNECTIONS = 64
READY_WITHIN_S = 180.0
STOP_WITHIN_S = 60.0
KILL_ROUNDS = 3


class Answer(NamedTuple):
    """Status, headers (names in lower case) and body of an answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """Code of an error."""
        assert self.headers["content-type"].startswith("application/json")
        code: str = self.json["error"]["code"]
        assert self.json["error"]["message"]
        return code


class Door:
    """A client on one kept connection that sends targets as they are: no clean-up of dots, no second encoding."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_TIMEOUT_S)

    def ask(self, method: str, target: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> Answer:
        """Return the answer to one request; a connection that was closed between two requests is opened again."""
        try:
            return self._ask(method, target, body, headers or {})
        except (ConnectionError, http.client.HTTPException):
            self._connection.close()
            return self._ask(method, target, body, headers or {})

    def _ask(self, method: str, target: str, body: bytes | None, headers: Mapping[str, str]) -> Answer:
        self._connection.request(method, target, body, dict(headers))
        response = self._connection.getresponse()
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def send(self, *tags: Mapping[str, Any] | bytes) -> None:
        """Send events one after another; each is stored when this returns."""
        for tag in tags:
            body = tag if isinstance(tag, bytes) else record_bytes(tag)
            answer = self.ask("POST", "/user_tags", body)
            assert (answer.status, answer.body) == (204, b""), answer

    def profile(self, cookie: str, time_range: str = ALWAYS, *, limit: int | None = None, method: str = "POST") -> Answer:
        """Ask for a profile."""
        fields = {"time_range": time_range} | ({} if limit is None else {"limit": str(limit)})
        return self.ask(method, f"/user_profiles/{quote(cookie, safe='')}?{urlencode(fields)}")

    def aggregates(
        self, start: str, minutes: int, aggregates: Sequence[str], filters: Mapping[str, str], *, method: str = "POST"
    ) -> Answer:
        """Ask for *minutes* from *start* (`YYYY-MM-DDTHH:MM`) on; *filters* hold the action too."""
        fields = [
            ("time_range", minutes_from(start, minutes)),
            *filters.items(),
            *(("aggregates", name) for name in aggregates),
        ]
        return self.ask(method, f"/aggregates?{urlencode(fields)}")

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of a metric over the series that have *labels*."""
        lines = self.ask("GET", "/metrics").body.decode().splitlines()
        mine = [line for line in lines if line.split("{")[0].split(" ")[0] == name]
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        return sum(float(line.rsplit(" ", 1)[1]) for line in mine if all(text in line for text in wanted))


def minutes_from(start: str, minutes: int) -> str:
    """Return the time range of whole minutes.

    >>> minutes_from("2022-03-01T23:59", 2)
    '2022-03-01T23:59:00_2022-03-02T00:01:00'
    """
    first = datetime.fromisoformat(start).replace(tzinfo=UTC)
    return f"{first:%Y-%m-%dT%H:%M:%S}_{first + timedelta(minutes=minutes):%Y-%m-%dT%H:%M:%S}"


async def send_all(port: int, bodies: Iterable[bytes], *, connections: int = CONNECTIONS) -> int:
    """Send events over kept connections, one in flight on each, and return how many were acknowledged: all."""
    waiting = iter(bodies)
    counts = await asyncio.gather(*(_send_some(port, waiting) for _ in range(connections)))
    return sum(counts)


async def _send_some(port: int, bodies: Iterator[bytes]) -> int:
    """Send events on one connection as long as there are any; written by hand, since a usual client costs more than we do."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    sent = 0
    try:
        for body in bodies:
            writer.write(b"POST /user_tags HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), ANSWER_TIMEOUT_S)
            assert head.startswith(b"HTTP/1.1 204 "), head
            sent += 1
    finally:
        writer.close()
        await writer.wait_closed()
    return sent


@contextmanager
def own_kafka(home: Path, **environment: str) -> Iterator[str]:
    """Run a Kafka of the test's own with the job's topics, whose names are fixed; yield its servers."""
    kafka = LocalKafka(home)
    kafka.start()
    try:
        create_topics(kafka.servers, load_settings(environment) if environment else Settings())
        yield kafka.servers
    finally:
        kafka.stop()
        kafka.remove()


def free_row(length: int, *, but: Collection[int]) -> int:
    """Return the first of *length* ports in a row that are free, and none of which is promised to somebody else."""
    while True:
        row = range(first := free_port(), first + length)
        if all(is_free(port) and port not in but for port in row):
            return first


class Job:
    """`make run` in a subprocess, as a user starts it, on ports and in a folder of its own."""

    def __init__(self, home: Path, *, workers: int = 1, settings: Mapping[str, str] | None = None) -> None:
        self.home = home
        self.workers = workers
        self.port, sinks_port = free_port(), free_port()
        self.log_path = home.with_suffix(".log")
        self.environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("TALLY_", "MAKE", "MFLAGS"))},
            "TALLY_STACK_HOME": str(home),
            "TALLY_GATEWAY_PORT": str(self.port),
            "TALLY_WEB_PORT": str(free_row(workers, but=(self.port, sinks_port))),
            "TALLY_SINKS_PORT": str(sinks_port),
            "WORKERS": str(workers),
            **(settings or {}),
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Job:
        """Start it and return when it says that it is ready."""
        position = len(self.log())
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(["make", "run"], cwd=ROOT, env=self.environ, stdout=log, stderr=log)
        eventually(lambda: self._is_ready(position), within_s=READY_WITHIN_S, what="the line that says ready")
        return self

    def _is_ready(self, position: int) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise SystemExit(f"make run ended with {self.process.returncode}: {self.log()[-3000:]}")
        return f"tally is ready: http://127.0.0.1:{self.port}" in self.log()[position:]

    def again(self) -> subprocess.CompletedProcess[str]:
        """Run a second `make run` in the same folder and return how it ended."""
        return subprocess.run(
            ["make", "run"], cwd=ROOT, env=self.environ, capture_output=True, text=True, timeout=60, check=False
        )

    def stop(self) -> None:
        """Stop it as an operator would, and wait until it has ended; in time, or it fails with the end of its log."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"make run did not stop within {STOP_WITHIN_S} s: {self.log()[-1500:]}") from error

    def end(self) -> None:
        """Kill whatever of it still runs."""
        for _ in range(KILL_ROUNDS):  # a manager may have started one more meanwhile
            for pid in self.pids():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        if self.process is not None:
            self.process.wait(STOP_WITHIN_S)

    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def pids(self, *words: str) -> list[int]:
        """Return the processes of this job whose command line has all of *words*."""
        mark = f"TALLY_STACK_HOME={self.home}".encode()
        return [pid for pid, command, environment in processes() if mark in environment and all(w in command for w in words)]

    def services(self) -> Mapping[str, str]:
        """Return what `stack.env` tells other tools."""
        return StackHome(self.home).read_environment()


def processes() -> Iterator[tuple[int, str, list[bytes]]]:
    """Yield id, command line and environment of every process that may be looked at and still runs."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                environment = (folder / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if command:  # a zombie has none
                yield int(folder.name), command, environment
