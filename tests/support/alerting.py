"""Run the real alert rules faster: every duration and threshold in seconds is divided by one factor, nothing else changed."""

from __future__ import annotations

import json
import re
import shutil
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stack.prometheus import RULES, LocalPrometheus, Targets
from tests.support.eventually import eventually

INTERVAL = "500ms"
ANSWER_TIMEOUT_S = 5.0
_UNIT_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_RANGE = re.compile(r"(\[|offset |for: )(\d+)([smhd])")
_THRESHOLD = re.compile(r" \* 60\b")


def shortened(rules: str, factor: int) -> str:
    """Return a rule file with its ranges, offsets and `for:` divided by *factor*, and its thresholds in seconds (`n * 60`).

    >>> shortened("expr: deriv(a[15m]) > 0 and a > 5 * 60\\nfor: 10m", 30)
    'expr: deriv(a[30000ms]) > 0 and a > 5 * 60 / 30\\nfor: 20000ms'
    """
    divided = _RANGE.sub(lambda match: f"{match[1]}{int(match[2]) * _UNIT_MS[match[3]] // factor}ms", rules)
    return _THRESHOLD.sub(f" * 60 / {factor}", divided)


class Alerts:
    """What a Prometheus says is firing."""

    def __init__(self, prometheus: LocalPrometheus) -> None:
        self._prometheus = prometheus

    def firing(self) -> list[dict[str, str]]:
        """Return the labels of every alert that fires now."""
        return [alert["labels"] for alert in self._ask("alerts")["alerts"] if alert["state"] == "firing"]

    def value(self, query: str) -> float:
        """Return what the first series of a query is now.

        Raises:
            IndexError: it has none.
        """
        with urllib.request.urlopen(
            f"{self._prometheus.url}/api/v1/query?query={urllib.request.quote(query)}",  # type: ignore[attr-defined]
            timeout=ANSWER_TIMEOUT_S,
        ) as response:
            return float(json.load(response)["data"]["result"][0]["value"][1])

    def pages(self) -> set[str]:
        """Return the names of those that wake someone."""
        return {labels["alertname"] for labels in self.firing() if labels["severity"] == "page"}

    def wait_for(self, name: str, *, within_s: float, **labels: str) -> None:
        """Return as soon as an alert of that name, with these labels, fires."""

        def fires() -> bool:
            return any(found["alertname"] == name and labels.items() <= found.items() for found in self.firing())

        eventually(fires, within_s=within_s, what=f"{name} {labels or ''} firing")

    def _ask(self, what: str) -> Any:
        with urllib.request.urlopen(f"{self._prometheus.url}/api/v1/{what}", timeout=ANSWER_TIMEOUT_S) as response:
            return json.load(response)["data"]


@contextmanager
def judging(home: Path, targets: Targets, *, factor: int) -> Iterator[Alerts]:
    """Run a Prometheus that scrapes *targets* and judges by the project's own rules, shortened."""
    rules = home / "rules"
    rules.mkdir(parents=True)
    for path in RULES.glob("*.rules.yml"):
        (rules / path.name).write_text(shortened(path.read_text(encoding="utf-8"), factor), encoding="utf-8")
    prometheus = LocalPrometheus(home, targets, rules=rules, interval=INTERVAL)
    try:
        prometheus.start()
        yield Alerts(prometheus)
    finally:
        prometheus.stop()
        shutil.rmtree(home, ignore_errors=True)
