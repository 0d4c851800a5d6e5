"""Run the real HAProxy with the configuration that ships, in front of gateways of a test's own."""

from __future__ import annotations

import csv
import io
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from stack.ports import free_port
from tests.support.eventually import eventually
from tests.support.stack_fixtures import REQUIRE_VARIABLE

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "docker" / "haproxy" / "haproxy.cfg"
LOOPBACK = "127.0.0.1"
STOP_WITHIN_S = 10.0


def haproxy() -> str:
    """Return the program; a machine without one skips the test, or fails it where services are required."""
    program = shutil.which("haproxy", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if program is None:
        if os.environ.get(REQUIRE_VARIABLE) == "1":
            pytest.fail("haproxy is required and not installed: apt-get install haproxy")
        pytest.skip("NO HAPROXY: apt-get install haproxy")
    return program


def environment(*, port: int, stats_port: int, gateways: Sequence[str]) -> dict[str, str]:
    """Return what the configuration wants to be told."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("TALLY_")},
        "TALLY_BALANCER_BIND": f"{LOOPBACK}:{port}",
        "TALLY_BALANCER_STATS": f"{LOOPBACK}:{stats_port}",
        **{f"TALLY_GATEWAY_{number}": address for number, address in enumerate(gateways, 1)},
    }


class Balancer:
    """HAProxy as a process."""

    def __init__(self, gateway_ports: Sequence[int]) -> None:
        self.port, self._stats_port = free_port(), free_port()
        gateways = [f"{LOOPBACK}:{port}" for port in gateway_ports]
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - a pipe that nobody reads would stop it
        self._process = subprocess.Popen(
            [haproxy(), "-db", "-f", str(CONFIG)],
            env=environment(port=self.port, stats_port=self._stats_port, gateways=gateways),
            stdout=self._log,
            stderr=self._log,
        )

    def states(self, backend: str) -> dict[str, str]:
        """Return what it thinks of each gateway, by name: UP, DOWN, or on the way."""
        with urllib.request.urlopen(f"http://{LOOPBACK}:{self._stats_port}/;csv", timeout=5) as answer:
            rows = csv.DictReader(io.StringIO(answer.read().decode().removeprefix("# ")))
            return {row["svname"]: row["status"] for row in rows if row["pxname"] == backend and row["svname"] != "BACKEND"}

    def wait_up(self, *names: str) -> None:
        """Return when it sends requests of both kinds to these gateways."""
        for backend in ("tags", "queries"):
            eventually(
                lambda backend=backend: all(self.states(backend)[name] == "UP" for name in names),  # type: ignore[misc]
                what=f"{names} up in {backend}",
            )

    def stop(self) -> None:
        """End it, and show what it logged should the test fail."""
        self._process.terminate()
        self._process.wait(STOP_WITHIN_S)
        self._log.seek(0)
        sys.stderr.write(self._log.read())
        self._log.close()


@contextmanager
def a_balancer(gateway_ports: Sequence[int]) -> Iterator[Balancer]:
    """Run HAProxy in front of the gateways on these ports."""
    balancer = Balancer(gateway_ports)
    try:
        yield balancer
    finally:
        balancer.stop()
