"""One worker and a gateway before a Kafka of their own, with minutes and cookies that no other test of a module uses."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tests.support.eventually import eventually
from tests.support.gateway_process import running_gateway
from tests.support.job import Answer, Door, own_kafka
from tests.support.worker import WorkerProcess

WINDOW_MINUTES = 12
FRESH_WITHIN_S = 10.0
"""Rule 10: a profile shows an event within 10 s of its 204; here aggregates do as well."""


@dataclass
class System:
    """What runs, and how to ask it."""

    servers: str
    worker: WorkerProcess
    door: Door
    numbers: Iterator[int]

    def minute(self) -> str:
        """Return the first of twelve minutes (`YYYY-MM-DDTHH:MM`) that nobody has used."""
        start = datetime(2022, 3, 1, tzinfo=UTC) + timedelta(minutes=WINDOW_MINUTES * next(self.numbers))
        return f"{start:%Y-%m-%dT%H:%M}"

    def cookie(self) -> str:
        """Return a cookie that nobody has used."""
        return f"cookie-{next(self.numbers)}"

    def shows(self, answer: Any, **question: Any) -> None:
        """Wait until the profile of *question* is *answer*."""
        eventually(
            lambda: self.door.profile(**question).json == answer, within_s=FRESH_WITHIN_S, what=f"{question} as {answer}"
        )

    def counts(self, rows: list[list[str]], *question: Any) -> Answer:
        """Wait until the aggregates of *question* have *rows*, and return that answer."""

        def matching() -> Answer | None:
            answer = self.door.aggregates(*question)
            return answer if answer.json.get("rows") == rows else None

        found = eventually(matching, within_s=FRESH_WITHIN_S, what=f"{question} as {rows}")
        assert found is not None
        return found


@contextmanager
def running_system(home: Path) -> Iterator[System]:
    """Run one worker and a gateway; each test uses cookies and minutes of its own."""
    with own_kafka(home / "kafka") as servers:
        worker = WorkerProcess(servers, home / "job").start()
        settings = {"gateway_workers": worker.url, "gateway_body_bytes_max": "65536", "gateway_acknowledge_timeout_s": "10"}
        try:
            with running_gateway(servers, **settings) as gateway, closing(Door(gateway.port)) as door:
                eventually(lambda: door.ask("GET", "/health").status == 200, what="the gateway ready")
                yield System(servers, worker, door, itertools.count())
        finally:
            worker.kill()
