"""Read everything that a case left behind, from outside and whole: the topic, the changelogs, HTTP, Postgres, the logs."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from itertools import product

import psycopg

from streams.topics import DEAD_LETTERS, USER_TAGS
from tests.fault.events import BRANDS, CATEGORIES, MINUTES, ORIGINS, START_MINUTE_TEXT
from tests.fault.evidence import Evidence, StoredEvent, TopicRecord, Totals
from tests.fault.ledger import Place
from tests.fault.processes import temporary_files
from tests.fault.stage import Stage
from tests.support.comparison import BLOCKS, ROWS, cells_of, rows_of
from tests.support.job import Door
from tests.support.oracle import read_topic

KINDS = ("VIEW", "BUY")
NAMES = ("action", "origin", "brand_id", "category_id")
VALUES = {"origin": ORIGINS, "brand": BRANDS, "category": CATEGORIES}
BOTH = ("COUNT", "SUM_PRICE")
LINE_CHARACTERS_MAX = 300
LEVEL = re.compile(r"\[(DEBUG|INFO|WARN|WARNING|ERROR|CRITICAL)\]|^\S+ \S+ (DEBUG|INFO|WARNING|ERROR|CRITICAL) ")
SEVERE = ("ERROR", "CRITICAL")
TOLD = ("WARN", "WARNING", *SEVERE)
"""Levels of lines that a traceback may belong to."""
ALWAYS_ALLOWED = (
    # A group's coordinator is made at the first join; aiokafka asks for it again a moment later.
    r"Group Coordinator Request failed: \[Error 15\]",
)

CELLS_SQL = """
    SELECT source_partition, to_char(minute_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI'),
           action, origin, brand_id, category_id, sum(event_count)::bigint, sum(price_sum)::bigint
    FROM tally.minute_cells GROUP BY 1, 2, 3, 4, 5, 6
"""
EVENTS_SQL = """
    SELECT source_partition, source_offset, product_id, cookie, action,
           (extract(epoch FROM occurred_at) * 1000)::bigint, price
    FROM tally.user_events
"""
DEAD_SQL = "SELECT source_partition, source_offset, reason FROM tally.dead_letters"


def read_source(stage: Stage) -> list[TopicRecord]:
    """Return the whole source topic as it is now, read committed."""
    records = read_topic(stage.kafka.servers, USER_TAGS.topic)
    return [TopicRecord(record.partition, record.offset, record.value) for record in records]


def gather(stage: Stage, *, allowed_errors: Sequence[str], not_drained: str) -> Evidence:
    """Return the evidence of a case that is over."""
    seen = set(temporary_files(stage))
    evidence = Evidence(
        ledger=stage.ledger.entries(),
        expected_dead=dict(stage.ledger.expected_dead),
        topic=read_source(stage),
        samples=list(stage.observer.samples),
        marks=list(stage.marks),
        error_lines=list(error_lines(stage, allowed_errors)),
        replayed=stage.observer.replayed,
        not_drained=not_drained,
    )
    _read_changelogs(stage, evidence)
    _read_postgres(stage, evidence)
    with closing(Door(stage.gateway_port)) as door:
        _ask_aggregates(door, evidence)
        for cookie in sorted({cookie for cookie, _ in evidence.recomputed_whole.users}):
            answer = door.profile(cookie)
            evidence.profiles[cookie] = answer.json if answer.status == 200 else f"status {answer.status}"
    evidence.temporary_files = sorted(seen & set(temporary_files(stage)))  # one that is only there for a moment is no leftover
    return evidence


def _read_changelogs(stage: Stage, evidence: Evidence) -> None:
    for topic in (BLOCKS, ROWS):
        values: dict[int, dict[tuple[int, bytes], bytes]] = defaultdict(dict)
        for record in read_topic(stage.kafka.servers, topic):
            if record.value is not None:
                known = values[record.partition].setdefault((record.partition, record.key), record.value)
                if known != record.value:
                    evidence.two_values.append(f"{topic}/{record.partition} {record.key!r}")
        for partition, held in values.items():
            if topic == BLOCKS:
                evidence.logged_cells[partition] = cells_of(held)
            else:
                evidence.logged_rows[partition] = rows_of(held)


def _read_postgres(stage: Stage, evidence: Evidence) -> None:
    with psycopg.connect(stage.postgres.dsn) as connection:
        evidence.stored_events = [StoredEvent(*row) for row in connection.execute(EVENTS_SQL)]
        for partition, *cell, count, total in connection.execute(CELLS_SQL):
            evidence.stored_cells.setdefault(partition, {})[tuple(cell)] = (count, total)
        evidence.dead_letters = {(partition, offset): reason for partition, offset, reason in connection.execute(DEAD_SQL)}
    for record in read_topic(stage.kafka.servers, DEAD_LETTERS):
        place, reason = dead_letter_of(record.headers)
        evidence.dead_letter_records[place] = reason


def dead_letter_of(headers: Iterable[tuple[str, bytes]]) -> tuple[Place, str]:
    """Return where a dead letter comes from, and why; of headers with one name the last is ours.

    >>> dead_letter_of([("reason", b"schema"), ("partition", b"2"), ("offset", b"7")])
    ((2, 7), 'schema')
    """
    named = {name: (value or b"").decode() for name, value in headers}
    return (int(named["partition"]), int(named["offset"])), named["reason"]


def _ask_aggregates(door: Door, evidence: Evidence) -> None:
    seen = {cell[1:] for cell in evidence.recomputed_whole.counts}
    usual = product(KINDS, *([f"{name}-{number}" for number in range(count)] for name, count in VALUES.items()))
    minutes = sorted({cell[0] for cell in evidence.recomputed_whole.counts} | {START_MINUTE_TEXT})
    for start in windows(minutes):
        for values in sorted(seen | set(usual)):
            _add_answer(evidence.answered, door, start, dict(zip(NAMES, values, strict=True)))
        for kind in KINDS:
            _add_answer(evidence.answered_by_kind, door, start, {"action": kind})


def _add_answer(totals: Totals, door: Door, start: str, filters: dict[str, str]) -> None:
    answer = door.aggregates(start, MINUTES, BOTH, filters)
    if answer.status != 200:
        totals[start, *filters.values()] = (-answer.status, 0)
        return
    for row in answer.json["rows"]:
        count, total = int(row[-2]), int(row[-1])
        if count or total:
            totals[row[0][:16], *filters.values()] = (count, total)


def windows(minutes: Sequence[str]) -> Iterator[str]:
    """Yield the first minutes of as few queries as hold all of these, sorted ones.

    >>> list(windows(["2022-03-01T00:00", "2022-03-01T00:09", "2022-03-01T00:10"]))
    ['2022-03-01T00:00', '2022-03-01T00:10']
    """
    end = datetime.min.replace(tzinfo=UTC)
    for minute in minutes:
        at = datetime.fromisoformat(minute).replace(tzinfo=UTC)
        if (at - end).total_seconds() >= 0:
            yield minute
            end = datetime.fromtimestamp(at.timestamp() + MINUTES * 60, UTC)


def error_lines(stage: Stage, allowed: Sequence[str]) -> Iterator[str]:
    """Yield what our processes logged at ERROR or above, and the case does not allow."""
    patterns = [re.compile(pattern) for pattern in (*ALWAYS_ALLOWED, *allowed)]
    for path in stage.logs:
        for line in unexplained(path.read_text(encoding="utf-8", errors="replace").splitlines(), patterns):
            yield f"{path.stem}: {line[:LINE_CHARACTERS_MAX]}"


def unexplained(lines: Iterable[str], allowed: Sequence[re.Pattern[str]]) -> Iterator[str]:
    """Yield the lines at ERROR or above that match nothing allowed, and tracebacks that belong to no line at WARNING or above.

    >>> log = ["[1] [ERROR] a", "Traceback (most", "[2] [INFO] b", "Traceback (most", "2026 1:00 CRITICAL x c"]
    >>> list(unexplained(log, [re.compile("ERROR")]))
    ['Traceback (most', '2026 1:00 CRITICAL x c']
    """
    level = ""
    for line in lines:
        found = LEVEL.search(line)
        if found:
            level = found[1] or found[2]
        is_crash = line.startswith("Traceback ") and level not in TOLD
        if (is_crash or (found and level in SEVERE)) and not any(pattern.search(line) for pattern in allowed):
            yield line
