"""Ask all sinks to write now what waits for a window, and wait until they have: `python -m sinks flush`.

The question stands in Postgres, so it reaches every process and outlives its end: sinks that are down answer when they start.
"""

from __future__ import annotations

from time import sleep

import psycopg

from sinks.forward import IMMEDIATE
from sinks.postgres import connect
from sinks.queries import event_query
from streams.clock import SYSTEM_CLOCK
from streams.errors import SettingsError, SinkUnavailableError
from streams.settings import Settings

WITHIN_S = 300.0
PAUSE_S = 0.2


def flush(settings: Settings, *, within_s: float = WITHIN_S) -> str:
    """Return one line when all that Kafka had at the time of the call is written; a second call asks once more.

    Raises:
        SettingsError: nothing is held back, or nobody says where Postgres is.
        SinkUnavailableError: Postgres does not answer, or not all was written in time.
    """
    if settings.sinks.events_forward == IMMEDIATE:
        raise SettingsError("sinks.events_forward is immediate: nothing waits for a window")
    if not settings.postgres.dsn:
        raise SettingsError("postgres.dsn is empty")
    try:
        with connect(settings.postgres.dsn, name="tally-flush") as connection:
            partitions = connection.execute(event_query("ask_forward")).rowcount
            _wait(connection, within_s)
    except psycopg.Error as error:
        raise SinkUnavailableError(f"postgres does not take the question: {str(error).splitlines()[0]}") from error
    return f"written: what waited in {partitions} partitions"


def _wait(connection: psycopg.Connection, within_s: float) -> None:
    until_s = SYSTEM_CLOCK.monotonic_s() + within_s
    while True:
        row = connection.execute(event_query("waiting_forward")).fetchone()
        waiting = row[0] if row else 0
        if not waiting:
            return
        if SYSTEM_CLOCK.monotonic_s() > until_s:
            raise SinkUnavailableError(
                f"{waiting} partitions are not written after {within_s:.0f} s; if no sinks run, they begin with it when they do"
            )
        sleep(PAUSE_S)
