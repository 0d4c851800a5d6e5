"""Prepare a Kafka and a Postgres of one's own for the other processes: wait for both, create topics, migrate. Twice is once."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

from stack.errors import ServiceNotReadyError, StackError
from stack.kafka import kafka_answers
from stack.postgres import postgres_answers
from stack.processes import ROOT
from stack.progress import Say, say
from stack.topics import create_topics
from streams.clock import SYSTEM_CLOCK
from streams.errors import SettingsError
from streams.kafka_access import tls_context
from streams.settings import Settings

POLL_INTERVAL_S = 1.0
KAFKA_TIMEOUT_S = 5.0
MIGRATE_TIMEOUT_S = 300.0


def prepare(settings: Settings, *, say: Say = say) -> None:
    """Return when topics and tables are as this version wants them.

    Raises:
        SettingsError: no Kafka or no Postgres is named, or a topic has another number of partitions than the setting.
        StackError: one of them does not answer within `stack.ready_timeout_s`, or refuses.
    """
    servers, dsn = settings.kafka.servers, settings.postgres.dsn
    for name, value in (("kafka.servers", servers), ("postgres.dsn", dsn)):
        if not value:
            raise SettingsError(f"{name} is empty: `prepare` is for services of your own; `make run` starts local ones")
    tls = tls_context(settings.kafka)
    timeout_s = settings.stack.ready_timeout_s
    _wait("kafka.servers: no Kafka answers", lambda: kafka_answers(servers, timeout_s=KAFKA_TIMEOUT_S, tls=tls), timeout_s)
    _wait("postgres.dsn: your Postgres does not answer or does not let us in", lambda: postgres_answers(dsn), timeout_s)
    created = create_topics(servers, settings)
    say(f"created topics {', '.join(created)}" if created else "the topics are there")
    _migrate()


def _wait(complaint: str, answers: Callable[[], bool], timeout_s: float) -> None:
    deadline_s = SYSTEM_CLOCK.monotonic_s() + timeout_s
    while not answers():
        if SYSTEM_CLOCK.monotonic_s() > deadline_s:
            raise ServiceNotReadyError(f"{complaint}, for {timeout_s:.0f} s")
        time.sleep(POLL_INTERVAL_S)


def _migrate() -> None:
    """Run the migrations in a process of their own: the stack knows nothing of the sinks."""
    answer = subprocess.run([sys.executable, "-m", "sinks", "migrate"], cwd=ROOT, timeout=MIGRATE_TIMEOUT_S, check=False)
    if answer.returncode != 0:
        raise StackError("the migrations failed: the line above says why")
