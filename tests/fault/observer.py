"""Look at the system from outside while a case runs: what HTTP and Postgres show, how much was replayed."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from typing import Any
from urllib.parse import urlencode

import psycopg

from stack.ports import LOOPBACK
from tests.fault.events import MINUTES, START_MINUTE_TEXT
from tests.fault.evidence import Sample
from tests.support.job import minutes_from

INTERVAL_S = 0.25
METRICS_EVERY = 4
ANSWER_TIMEOUT_S = 5.0
POSTGRES_OPTIONS = "-c statement_timeout=5000"
KINDS = ("VIEW", "BUY")
REPLAYED = "tally_replayed_offsets_total"
STORED_SQL = """
    SELECT least((SELECT count(*) FROM tally.user_events),
                 (SELECT coalesce(sum(event_count), 0)::bigint FROM tally.minute_aggregates))
"""


class Observer:
    """Takes samples on a thread of its own.

    Attributes:
        samples: in the order of time.
    """

    def __init__(self, *, port: int, dsn: str, worker_ports: Sequence[int], acknowledged: Callable[[], int]) -> None:
        self.samples: list[Sample] = []
        self._port = port
        self._dsn = dsn
        self._worker_ports = worker_ports
        self._acknowledged = acknowledged
        self._replayed = 0.0
        self._last_replayed: dict[int, float] = {}
        self._connection: psycopg.Connection[Any] | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="observer", daemon=True)

    def start(self) -> Observer:
        """Begin."""
        self._thread.start()
        return self

    def close(self) -> None:
        """End; a second call does nothing."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self._disconnect()

    @property
    def replayed(self) -> int:
        """Source offsets that workers said to have read again, all lives of all workers together, as far as was seen."""
        return int(self._replayed)

    def look(self) -> Sample:
        """Return what is to be seen now."""
        at_s, acknowledged = time.monotonic(), self._acknowledged()
        return Sample(at_s, acknowledged, counts_now(self._port), self._stored())

    def _run(self) -> None:
        looks = 0
        while not self._stop.wait(INTERVAL_S):
            self.samples.append(self.look())
            looks += 1
            if looks % METRICS_EVERY == 0:
                self.read_metrics()

    def read_metrics(self) -> None:
        """Add what the workers that answer have replayed since; a counter that fell is that of a new life."""
        for port in self._worker_ports:
            values = metrics_of(port)
            if values is not None:
                last, now = self._last_replayed.get(port, 0.0), values[REPLAYED]
                self._replayed += now - last if now >= last else now
                self._last_replayed[port] = now

    def _stored(self) -> int | None:
        try:
            connection = self._connection  # the thread and the drain both come here, and either may disconnect
            if connection is None:
                connection = self._connection = psycopg.connect(
                    self._dsn, autocommit=True, connect_timeout=int(ANSWER_TIMEOUT_S), options=POSTGRES_OPTIONS
                )
            row = connection.execute(STORED_SQL).fetchone()
        except psycopg.Error:
            self._disconnect()
            return None
        return int(row[0]) if row else None

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(psycopg.Error):
                connection.close()


def ask(port: int, target: str, *, method: str = "GET", timeout_s: float = ANSWER_TIMEOUT_S) -> tuple[int, bytes]:
    """Return status and body of one answer; 0 where there was none in time."""
    with closing(http.client.HTTPConnection(LOOPBACK, port, timeout=timeout_s)) as connection:
        try:
            connection.request(method, target)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            return 0, b""


def counts_now(port: int) -> dict[str, int] | None:
    """Return the events that the gateway shows, by minute of the usual ten; None where it does not answer for both kinds."""
    counts: Counter[str] = Counter()
    for kind in KINDS:
        fields = {"time_range": minutes_from(START_MINUTE_TEXT, MINUTES), "action": kind, "aggregates": "COUNT"}
        status, body = ask(port, f"/aggregates?{urlencode(fields)}", method="POST")
        if status != 200:
            return None
        for row in json.loads(body)["rows"]:
            counts[row[0]] += int(row[-1])
    return dict(counts)


def events_shown(port: int) -> int:
    """Return how many events the gateway shows; 0 where it does not answer."""
    return sum((counts_now(port) or {}).values())


def metrics_of(port: int) -> Counter[str] | None:
    """Return every metric of a process, its series added up; None where it does not answer."""
    status, body = ask(port, "/metrics")
    if status != 200:
        return None
    values: Counter[str] = Counter()
    for line in body.decode().splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            values[name.partition("{")[0]] += float(value)  # type: ignore[assignment] # a Counter adds what it is given
    return values
