"""Run real workers as processes, and ask them: started as in production, killed as in life."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stack.ports import free_port
from tests.support.eventually import eventually

ROOT = Path(__file__).parents[2]
READY_WITHIN_S = 60.0
STOP_WITHIN_S = 30.0


def get(url: str, *, body: bytes | None = None, timeout_s: float = 30.0) -> tuple[int, Any]:
    """Return status and decoded JSON of a request; POST where there is a body."""
    request = urllib.request.Request(url, data=body, method="GET" if body is None else "POST")
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as response:
            text = response.read()
            return response.status, json.loads(text) if text else None
    except urllib.error.HTTPError as error:
        text = error.read()
        return error.code, json.loads(text) if text else None


class WorkerProcess:
    """One worker of a cluster; its state and log lie under *home*, the program under `root`."""

    def __init__(
        self, servers: str, home: Path, *, index: int = 0, app: str = "pipeline", settings: Mapping[str, str] | None = None
    ) -> None:
        base_port = free_port()
        self.home = home
        self.index = index
        self.app = app
        self.port = base_port
        self.log_path = home / f"worker-{index}.log"
        self.environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("TALLY_")},
            "TALLY_KAFKA_SERVERS": servers,
            "TALLY_STACK_HOME": str(home),
            "TALLY_WORKER_INDEX": str(index),
            "TALLY_WEB_PORT": str(base_port - index),
            "TALLY_WORKER_SESSION_TIMEOUT_S": "6",
            "TALLY_WORKER_DRAIN_S": "0",
            **(settings or {}),
        }
        self.root = ROOT
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, *, wait: bool = True) -> WorkerProcess:
        """Start the process and wait until it answers for its partitions."""
        self.home.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "faust", "-A", self.app, "worker", "-l", "info"]
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(command, cwd=self.root, env=self.environ, stdout=log, stderr=log)
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self) -> None:
        """Wait for `/ready`; a process that ends meanwhile fails with the end of its log."""

        def ready() -> bool:
            assert self.process is not None
            if self.process.poll() is not None:
                raise SystemExit(f"the worker ended with {self.process.returncode}: {self.log()[-2000:]}")
            return get(f"{self.url}/ready")[0] == 200

        eventually(ready, within_s=READY_WITHIN_S, what=f"worker {self.index} ready")

    def kill(self) -> None:
        """Kill it as a crash would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Stop it as an operator would."""
        self._end(signal.SIGTERM)

    def _end(self, sign: signal.Signals) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(sign)
            try:
                self.process.wait(STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise

    def wait_ended(self, *, within_s: float = 60.0) -> int:
        """Return the exit code of a process that ends by itself."""
        assert self.process is not None
        return self.process.wait(within_s)

    def has_ended(self, *, within_s: float) -> bool:
        """Say whether the process ends by itself within a time."""
        assert self.process is not None
        try:
            self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def metric(self, name: str) -> float:
        """Return the sum of a metric over its labels."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=10) as response:
            lines = response.read().decode().splitlines()
        values = [line.rsplit(" ", 1)[1] for line in lines if line.split("{")[0].split(" ")[0] == name]
        return sum(map(float, values))
