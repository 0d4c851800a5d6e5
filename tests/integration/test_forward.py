"""When rows are written: not before their window, all of them in it, and at once when somebody asks."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import pytest

from sinks.flush import flush
from sinks.forward import read_window
from sinks.submissions import settle
from streams.clock import SYSTEM_CLOCK
from streams.errors import SettingsError, SinkUnavailableError
from streams.metrics import SinkMetrics
from streams.settings import Settings
from streams.topics import DEAD_LETTERS, EVENTS
from tables.blocks import BlockKey, encode_block, pack
from tests.support.sinks_process import MINUTE, Changelogs, StartSinks, a_loop, applied, connected, running, select, until
from tests.support.submissions import BLOCKS_TOPIC, ROWS_TOPIC, Submitter, a_submission, log_of, stored

SEVEN = "window(07:00)"


class SetClock:
    """Today's date at the hour that the test says."""

    def __init__(self, hour: float) -> None:
        self.hour = hour

    def now_ms(self) -> int:
        today = datetime.fromtimestamp(SYSTEM_CLOCK.now_ms() / 1000, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        return int((today.timestamp() + 3_600 * self.hour) * 1000)

    def monotonic_s(self) -> float:
        return SYSTEM_CLOCK.monotonic_s()


@pytest.fixture(autouse=True)
def looks_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a loop of this process holds back, it holds back although it has just looked."""
    monkeypatch.setattr("sinks.forward.LOOK_INTERVAL_S", 0.0)


def some(first: int, count: int) -> list[bytes]:
    """Return submissions of one datapoint each."""
    return [a_submission(f"t{number}") for number in range(first, first + count)]


def carry(submitter: Submitter, first: int, count: int, *, piece: int = 400) -> None:
    """Put submissions into both partitions, in spans of a few hundred."""
    for number, start in enumerate(range(0, count, piece)):
        submitter.carry(some(first + start, min(piece, count - start)), partition=number % 2)


def pending(dsn: str) -> int:
    """Return how many submissions the log says to be waiting."""
    return int(select(dsn, "SELECT count(*) FROM tally.txn_log WHERE state = 'PENDING'")[0][0])


def until_looked(dsn: str, changelogs: Changelogs) -> None:
    """Return when the loop has looked for windows, and has written other topics twice, after all that was sent."""

    def is_written() -> bool:
        return applied(dsn).get((DEAD_LETTERS, 0), 0) >= changelogs.ends[DEAD_LETTERS, 0]

    for _ in range(2):
        changelogs.send(DEAD_LETTERS, 0, [(b"marker", b"")])
        until(is_written, "a dead letter is written")


def samples(metrics: SinkMetrics, name: str) -> float:
    """Return a sample of the COPY histogram for submissions."""
    labels = {"table": "events"}
    if name.startswith("le="):
        labels["le"] = name.removeprefix("le=")
        name = "bucket"
    return metrics.registry.get_sample_value(f"tally_sink_copy_rows_{name}", labels) or 0.0


def test_2500_that_wait_come_in_batches_of_1000_1000_and_500_when_the_window_begins(
    sinks_servers: str, sinks_dsn: str, submitter: Submitter, changelogs: Changelogs
) -> None:
    """P7, P8: 0 rows before, all after; aggregates and dead letters do not wait; what comes after waits for the next day."""
    clock, metrics = SetClock(6.9), SinkMetrics()
    with running(a_loop(sinks_servers, sinks_dsn, clock=clock, metrics=metrics, events_forward=SEVEN)):
        carry(submitter, 0, 2_500)
        block = BlockKey(MINUTE, 0, 9).encode(), encode_block({("TRANSACTION", "PCR", "a"): pack(1)}, sums=0)
        changelogs.send(BLOCKS_TOPIC, 0, [block])
        until(lambda: pending(sinks_dsn) == 2_500, "all are in the log")
        until_looked(sinks_dsn, changelogs)
        until(lambda: bool(select(sinks_dsn, "SELECT FROM tally.event_minute_cells")), "cells are written")
        assert stored(sinks_dsn) == []
        with connected(sinks_dsn) as connection:
            assert settle(connection, EVENTS) == 2_500
        clock.hour = 7
        until(lambda: len(stored(sinks_dsn)) == 2_500, "the window lets them through")
        found = [samples(metrics, name) for name in ("count", "sum", "le=500.0", "le=1000.0")]
        assert found == [3, 2_500, 1, 3]
        carry(submitter, 2_500, 10)
        until(lambda: pending(sinks_dsn) == 10, "later ones are in the log")
        until_looked(sinks_dsn, changelogs)
        assert len(stored(sinks_dsn)) == 2_500
        clock.hour = 7 + 24
        until(lambda: len(stored(sinks_dsn)) == 2_510, "the next day's window")
    assert {state for state, *_ in log_of(sinks_dsn).values()} == {"DONE"}


def test_window_that_was_missed_is_made_up_for_once(
    sinks_servers: str, sinks_dsn: str, submitter: Submitter, changelogs: Changelogs
) -> None:
    """P8: sinks that were down at 07:00 write when they come up; then they hold again, also after another restart."""
    clock = SetClock(6)
    with running(a_loop(sinks_servers, sinks_dsn, clock=clock, events_forward=SEVEN)):
        carry(submitter, 0, 30)
        until(lambda: pending(sinks_dsn) == 30, "all are in the log")
        until_looked(sinks_dsn, changelogs)
        assert stored(sinks_dsn) == []
    clock.hour = 9
    with running(a_loop(sinks_servers, sinks_dsn, clock=clock, events_forward=SEVEN)):
        until(lambda: len(stored(sinks_dsn)) == 30, "what waited at 07:00")
        carry(submitter, 30, 5)
        until(lambda: pending(sinks_dsn) == 5, "later ones are in the log")
    with running(a_loop(sinks_servers, sinks_dsn, clock=clock, events_forward=SEVEN)):
        until_looked(sinks_dsn, changelogs)
        assert len(stored(sinks_dsn)) == 30


def test_killed_in_a_window_the_rest_of_it_is_written_and_no_more(
    sinks_servers: str, sinks_dsn: str, submitter: Submitter, changelogs: Changelogs
) -> None:
    """P8: up to where the window reaches stands in Postgres, so it does not matter when the process ended."""
    clock = SetClock(6)
    with running(a_loop(sinks_servers, sinks_dsn, clock=clock, events_forward=SEVEN)):
        submitter.carry(some(0, 7))
        until_looked(sinks_dsn, changelogs)
    end = changelogs.ends[ROWS_TOPIC, 0]
    today = datetime.fromtimestamp(clock.now_ms() / 1000, UTC).replace(hour=7)
    with connected(sinks_dsn) as connection:
        values = (today, end, ROWS_TOPIC)
        connection.execute("UPDATE tally.forward_positions SET window_at = %s, forward_to = %s WHERE topic = %s", values)
        connection.execute("UPDATE tally.forward_positions SET forward_to = 0 WHERE partition = 1")
    submitter.carry(some(7, 3))
    clock.hour = 8
    with running(a_loop(sinks_servers, sinks_dsn, clock=clock, events_forward=SEVEN)):
        until(lambda: len(stored(sinks_dsn)) == 7, "the rest of the window")
        until_looked(sinks_dsn, changelogs)
        assert len(stored(sinks_dsn)) == 7


def in_12_hours() -> str:
    """Return a policy whose window is far from now."""
    then = datetime.fromtimestamp(SYSTEM_CLOCK.now_ms() / 1000, UTC) + timedelta(hours=12)
    policy = f"window({then:%H:%M})"
    assert read_window(policy)
    return policy


def gauge_of(text: str) -> float:
    """Return the depth of the queue that `/metrics` shows; NaN while nobody answers."""
    lines = [line for line in text.splitlines() if line.startswith("tally_forward_queue_rows ")]
    return float(lines[0].split()[1]) if lines else math.nan


def test_flush_now_empties_the_queue_and_the_gauge_says_so(
    start_sinks: StartSinks, submitter: Submitter, changelogs: Changelogs, sinks_dsn: str
) -> None:
    """P7: one command, whoever holds the partitions; it returns when all is written."""
    sinks = start_sinks(TALLY_SINKS_EVENTS_FORWARD=in_12_hours())
    carry(submitter, 0, 900)
    until(lambda: gauge_of(sinks.get("/metrics")[1]) == 900, "the gauge shows what waits")
    assert stored(sinks_dsn) == []
    assert 'tally_sink_lag_records{partition="0",topic="' + ROWS_TOPIC + '"} 0.0' in sinks.get("/metrics")[1]
    flushed = sinks.once("flush")
    assert (flushed.returncode, flushed.stdout, flushed.stderr) == (0, "written: what waited in 2 partitions\n", "")
    assert len(stored(sinks_dsn)) == 900
    until(lambda: gauge_of(sinks.get("/metrics")[1]) == 0, "the gauge shows that nothing waits")


def test_flush_while_no_sinks_run_is_done_when_they_start(
    start_sinks: StartSinks, submitter: Submitter, changelogs: Changelogs, sinks_dsn: str
) -> None:
    """P7: the question stands in Postgres."""
    policy = in_12_hours()
    sinks = start_sinks(TALLY_SINKS_EVENTS_FORWARD=policy)
    carry(submitter, 0, 10)
    until(lambda: pending(sinks_dsn) == 10, "all are in the log")
    until_looked(sinks_dsn, changelogs)
    sinks.terminate()
    settings = Settings.model_validate({"postgres": {"dsn": sinks_dsn}, "sinks": {"events_forward": policy}})
    with pytest.raises(SinkUnavailableError, match="not written"):
        flush(settings, within_s=0)
    assert stored(sinks_dsn) == []
    start_sinks(TALLY_SINKS_EVENTS_FORWARD=policy)
    until(lambda: len(stored(sinks_dsn)) == 10, "what was asked for")


def test_flush_without_a_window_says_that_nothing_waits() -> None:
    """P7: a command that does nothing must not look as if it had."""
    with pytest.raises(SettingsError, match="nothing waits"):
        flush(Settings())
