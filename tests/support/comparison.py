"""Compare what workers answer, and what they left in the changelogs, with an oracle: whole answers, every cell, every row."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import combinations
from typing import Any
from urllib.parse import quote, urlencode

from streams.event_time import MINUTE_MS, format_minute
from streams.topics import USER_TAGS, changelog_of
from tables.blocks import PROGRESS, BlockKey, decode_block, newest, unpack
from tables.profiles import INVERSE, MISROUTED, ORDER, decode_span, user_of
from tests.support.eventually import eventually
from tests.support.oracle import Oracle, read_topic
from tests.support.tags import START_MINUTE
from tests.support.worker import WorkerProcess, get

WINDOW_MINUTES = 10
DIMENSIONS = ("origin", "brand_id", "category_id")
BLOCKS = changelog_of(USER_TAGS.blocks_table)
ROWS = changelog_of(USER_TAGS.rows_table)
ACTIONS = ("VIEW", "BUY")
MOVED_WITHIN_S = 60.0
"""A worker that a busy machine keeps from Kafka for longer than a session loses its partitions, and has them again by then."""


def answer_of(worker: WorkerProcess, path: str) -> Any:
    """Return the worker's answer; while partitions move it is 503, which is waited out, and nothing else is."""

    def settled() -> tuple[int, Any]:
        status, answer = get(f"{worker.url}{path}", body=b"")
        assert status != 503, answer
        return status, answer

    status, answer = eventually(settled, within_s=MOVED_WITHIN_S, what=f"an answer for {path}")
    assert status == 200, (status, answer)
    return answer


def aggregates(worker: WorkerProcess, start: int, minutes: int, filters: dict[str, str]) -> dict[str, Any]:
    """Return the worker's answer for whole minutes since 1970, count and sum."""
    time_range = f"{format_minute(start)}_{format_minute(start + minutes)}"
    query = urlencode([("time_range", time_range), *filters.items(), ("aggregates", "COUNT"), ("aggregates", "SUM_PRICE")])
    return dict(answer_of(worker, f"/aggregates?{query}"))


def counted(worker: WorkerProcess, *, minutes: int) -> int:
    """Return how many events of the *minutes* from the start of the tags on the worker has counted."""
    return sum(
        int(row[2])
        for action in ACTIONS
        for start, length in windows(minutes)
        for row in aggregates(worker, start, length, {"action": action})["rows"]
    )


def windows(minutes: int) -> Iterator[tuple[int, int]]:
    """Yield (start, length) of queries that cover the minutes; one query takes at most ten."""
    for first in range(0, minutes, WINDOW_MINUTES):
        yield START_MINUTE + first, min(WINDOW_MINUTES, minutes - first)


def wait_counted(worker: WorkerProcess, oracle: Oracle, *, minutes: int, within_s: float = 60.0) -> None:
    """Wait until as many are counted as there are; whether they are the right ones is for the comparison."""

    def all_counted() -> bool:
        count = counted(worker, minutes=minutes)
        if count < oracle.records:
            raise AssertionError(f"{count} counted")
        return True

    eventually(all_counted, within_s=within_s, what=f"{oracle.records} events counted")


def assert_answers_exact(
    worker: WorkerProcess, oracle: Oracle, *, minutes: int, seed: int = 1, filters_each: int = 3, users: int = 300
) -> None:
    """Compare whole answers: all minutes by all subsets of filters, values sampled, and profiles, the hottest included."""
    rng = random.Random(seed)
    for subset in (names for size in range(4) for names in combinations(DIMENSIONS, size)):
        totals = _totals_by(oracle, subset)
        known = sorted({key[1:] for key in totals})
        for values in rng.sample(known, min(filters_each, len(known))):
            filters = dict(zip(("action", *subset), values, strict=True))
            for start, length in windows(minutes):
                expected = [
                    [f"{format_minute(m)}", *values, *map(str, totals[format_minute(m)[:16], *values])]
                    for m in range(start, start + length)
                ]
                assert aggregates(worker, start, length, filters)["rows"] == expected, filters
    _assert_profiles_exact(worker, oracle, rng, users)


def _totals_by(oracle: Oracle, subset: tuple[str, ...]) -> defaultdict[tuple[str, ...], tuple[int, int]]:
    """Return (count, sum) by (minute, action, values of the subset)."""
    places = (0, 1, *(DIMENSIONS.index(name) + 2 for name in subset))
    counts: Counter[tuple[str, ...]] = Counter()
    sums: Counter[tuple[str, ...]] = Counter()
    for cell, (count, total) in oracle.totals().items():
        key = tuple(cell[place] for place in places)
        counts[key] += count
        sums[key] += total
    return defaultdict(lambda: (0, 0), {key: (count, sums[key]) for key, count in counts.items()})


def _assert_profiles_exact(worker: WorkerProcess, oracle: Oracle, rng: random.Random, users: int) -> None:
    cookies = Counter({user: 0 for user, _ in oracle.users})
    for (user, _), events in oracle.users.items():
        cookies[user] += len(events)
    hottest = [user for user, _ in cookies.most_common(10)]
    span_ms = (START_MINUTE * MINUTE_MS, (START_MINUTE + 60) * MINUTE_MS)
    time_range = f"{format_minute(START_MINUTE)}_{format_minute(START_MINUTE + 60)}"
    for user in {*hottest, *rng.sample(sorted(cookies), min(users, len(cookies)))}:
        answer = answer_of(worker, f"/user_profiles/{quote(user, safe='')}?time_range={time_range}")
        assert answer == oracle.profile(user, *span_ms)


def assert_changelogs_exact(servers: str, oracle: Oracle, *, within_s: float = 30.0) -> None:
    """Compare every cell and every row that the changelogs hold, and the law: a key has one value, whoever wrote it when.

    The open buckets' last partial versions come within a second or so, hence the wait.
    """
    expected_rows = {(*user, arrival) for user, rows in oracle.users.items() for _, arrival, _ in rows}

    def exact() -> bool:
        blocks, rows = changelog_values(servers, BLOCKS), changelog_values(servers, ROWS)
        return cells_of(blocks) == oracle.totals() and rows_of(rows) == expected_rows

    eventually(exact, within_s=within_s, what="every cell and row in the changelogs")


def changelog_values(servers: str, topic: str) -> dict[tuple[int, bytes], bytes]:
    """Return the value of each (partition, key) ever written; two different ones of a key break the law."""
    values: dict[tuple[int, bytes], bytes] = {}
    for record in read_topic(servers, topic):
        if record.value is not None:
            known = values.setdefault((record.partition, record.key), record.value)
            assert known == record.value, f"{topic} {record.partition}: two values of the key {record.key!r}"
    return values


def cells_of(blocks: dict[tuple[int, bytes], bytes]) -> dict[tuple[str, ...], tuple[int, int]]:
    """Return (count, sum) by (minute text, dimensions…): of every minute and bucket the greatest `through`."""
    keys: defaultdict[int, list[bytes]] = defaultdict(list)
    for partition, key in blocks:
        keys[partition].append(key)
    totals: dict[tuple[str, ...], tuple[int, int]] = {}
    for partition, mine in keys.items():
        for (minute, _), key in newest(mine).items():
            if minute != PROGRESS:
                for dimensions, packed in decode_block(blocks[partition, key]).cells().items():
                    cell = (format_minute(minute)[:16], *dimensions)
                    count, total = unpack(packed, sums=1)
                    known = totals.get(cell, (0, 0))
                    totals[cell] = (known[0] + count, known[1] + total)
    return totals


def rows_of(spans: dict[tuple[int, bytes], bytes]) -> set[tuple[str, str, int]]:
    """Return (user, kind, offset) of every row; only the keys are read, the values are for the answers to prove."""
    kinds = {code[0]: kind for kind, code in USER_TAGS.kinds.items()}
    rows = set()
    for (_, name), span in spans.items():
        if name != MISROUTED:
            for key, _ in decode_span(span):
                rows.add((user_of(key).decode(), kinds[key[-ORDER.size - 1]], INVERSE - ORDER.unpack(key[-ORDER.size :])[1]))
    return rows


def newest_progress(blocks: dict[tuple[int, bytes], bytes]) -> dict[int, int]:
    """Return the greatest `through` of the progress by partition."""
    progress: dict[int, int] = {}
    for partition, key in blocks:
        decoded = BlockKey.decode(key)
        if decoded.minute == PROGRESS:
            progress[partition] = max(progress.get(partition, -1), decoded.through)
    return progress
