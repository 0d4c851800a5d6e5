"""Run a Prometheus of this machine beside the job: it scrapes our processes and judges our alerts."""

from __future__ import annotations

import json
import shutil
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

from stack.errors import StackError
from stack.ports import LOOPBACK, choose_port, read_ports, write_ports
from stack.progress import Say, say_nothing
from stack.service import LocalService

PROGRAM = "prometheus"
RULES = Path(__file__).resolve().parent.parent / "docker" / "prometheus" / "rules"
USUAL_PORT = 9090
INTERVAL = "15s"
RETENTION = "15d"
ANSWER_TIMEOUT_S = 2.0

Targets = Mapping[str, Sequence[str]]
"""Addresses, host:port, by the name of a job: `tally-gateway`, `tally-worker`, `tally-sinks`."""


def find_prometheus() -> str | None:
    """Return the path of the program; None where there is none."""
    return shutil.which(PROGRAM)


class LocalPrometheus(LocalService):
    """A Prometheus for this machine alone."""

    name = PROGRAM

    def __init__(
        self, home: Path, targets: Targets, *, rules: Path = RULES, interval: str = INTERVAL, say: Say = say_nothing
    ) -> None:
        """Describe it; nothing happens before `prepare`.

        Args:
            rules: folder of the `*.rules.yml` that it judges by.
            interval: how often it scrapes and judges, in its own form.
        """
        super().__init__(home, say=say)
        self._targets = targets
        self._rules = rules
        self._interval = interval
        self._port = 0

    @property
    def url(self) -> str:
        """Where its page is; valid after `prepare`."""
        return f"http://{LOOPBACK}:{self._port}"

    def prepare(self) -> None:
        if find_prometheus() is None:
            raise StackError("no prometheus on the path; Debian has it in the package prometheus")
        self.home.mkdir(parents=True, exist_ok=True)
        remembered = self.home / "ports.json"
        self._port = choose_port(USUAL_PORT, read_ports(remembered).get(self.name, 0))
        write_ports(remembered, {self.name: self._port})
        # JSON is YAML.
        self._config.write_text(json.dumps(config_of(self._targets, self._rules, self._interval), indent=1), encoding="utf-8")

    def command(self) -> list[str]:
        return [
            find_prometheus() or PROGRAM,
            f"--config.file={self._config}",
            f"--storage.tsdb.path={self.home / 'data'}",
            f"--storage.tsdb.retention.time={RETENTION}",
            f"--web.listen-address={LOOPBACK}:{self._port}",
            "--log.level=warn",
        ]

    def is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=ANSWER_TIMEOUT_S):  # noqa: S310 - our own address
                return True
        except (urllib.error.URLError, OSError):
            return False

    @property
    def _config(self) -> Path:
        return self.home / "prometheus.yml"


def config_of(targets: Targets, rules: Path, interval: str) -> dict[str, object]:
    """Return the configuration: that of docker/prometheus with the addresses of this run."""
    return {
        "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
        "rule_files": [str(rules / "*.rules.yml")],
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": list(addresses)}]} for job, addresses in targets.items()
        ],
    }
