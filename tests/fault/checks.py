"""Say what is wrong with a case, by pure functions over its evidence; each yields one line a problem, none when all is well."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any

from tests.fault.events import number_of
from tests.fault.evidence import Evidence, Held, StoredEvent, Totals
from tests.fault.ledger import Outcome
from tests.support.oracle import Oracle

EXAMPLES_MAX = 5
END_OF_TIME_MS = 1 << 60
MIB = 1 << 20
HANDLES_SHARE_MAX = 1.1
HANDLES_MORE_MAX = 24
"""Beside the share: a worker opens a file for each table of sorted rows that RocksDB writes, and everybody some connections
at the first use. Workers were seen to end with 9 more, all others with 1."""
MEMORY_MORE_BYTES_MAX = 64 * MIB
"""Beside RocksDB's memtables and block cache, which grow by about 140 B an event up to limits of their own: buffers of fetches
and sends, batches that wait, the views' remembered blocks. At 1,000 events a second a worker had 16 MiB more of that after
three minutes without a fault, 12 of them after half a minute, and 29 after five without Postgres on a machine with too much to
do; the sinks had 22 more then, and any process 10 after an outage of Kafka. So this is twice what was seen, and a leak of 250
bytes an event is found in the long form of F16."""

Check = Callable[[Evidence], Iterator[str]]


# -- the ledger against the topic


def acknowledged_are_in_the_topic(evidence: Evidence) -> Iterator[str]:
    """What was acknowledged is there, where Kafka said, with the bytes that were sent."""
    at = {(record.partition, record.offset): record.value for record in evidence.topic}
    values = {number_of(record.value): record.value for record in evidence.topic}
    for entry in evidence.ledger:
        if entry.outcome is Outcome.ACKNOWLEDGED and entry.number not in values:
            yield f"event {entry.number} ({entry.way}) was acknowledged and is not in the topic"
        elif entry.place is not None and at.get(entry.place) != entry.value:
            yield f"event {entry.number} was acknowledged at {entry.place}, which holds something else"
        elif entry.number in values and values[entry.number] != entry.value:
            yield f"event {entry.number} is in the topic with other bytes than were sent"


def counted_were_acknowledged_or_unknown(evidence: Evidence) -> Iterator[str]:
    """What is in the topic or in Postgres was sent, and nobody was told that it is not stored."""
    allowed = {entry.number for entry in evidence.ledger if entry.outcome is not Outcome.REFUSED}
    refused = {entry.number for entry in evidence.ledger} - allowed
    for where, numbers in _numbers(evidence).items():
        for number in sorted(set(numbers) - allowed):
            yield f"event {number} is in {where} although it was {'refused' if number in refused else 'never sent'}"


def acknowledged_are_counted(evidence: Evidence) -> Iterator[str]:
    """What was acknowledged is in Postgres, whatever the topic says."""
    stored = set(_numbers(evidence)["postgres"])
    dead = {number_of(record.value) for record in evidence.topic if (record.partition, record.offset) in evidence.expected_dead}
    for entry in evidence.ledger:
        if entry.outcome is Outcome.ACKNOWLEDGED and entry.number not in stored and entry.number not in dead:
            yield f"event {entry.number} ({entry.way}) was acknowledged and is not in postgres"


def nothing_is_there_twice(evidence: Evidence) -> Iterator[str]:
    """Every identity, and every place, is in the topic and in Postgres at most once."""
    for where, numbers in _numbers(evidence).items():
        for number, times in sorted(Counter(numbers).items()):
            if times > 1:
                yield f"event {number} is in {where} {times} times"
    for place, times in Counter((row.partition, row.offset) for row in evidence.stored_events).items():
        if times > 1:
            yield f"the record at {place} is in postgres {times} times"


def _numbers(evidence: Evidence) -> dict[str, list[int]]:
    in_topic = (number_of(record.value) for record in evidence.countable)
    in_postgres = (row.product for row in evidence.stored_events)
    return {
        "the topic": [number for number in in_topic if number is not None],
        "postgres": [int(product) for product in in_postgres if product.isdecimal()],
    }


# -- every form of the result against a plain recomputation of the topic


def postgres_events_equal_the_topic(evidence: Evidence) -> Iterator[str]:
    """Each row of `user_events` is the record at its place."""
    for partition, oracle in sorted(evidence.recomputed.items()):
        found = {row.offset: row for row in evidence.stored_events if row.partition == partition}
        yield from differences(f"partition {partition} of user_events", _rows_of(partition, oracle), found)
    for partition in {row.partition for row in evidence.stored_events} - set(evidence.recomputed):
        yield f"user_events has rows of partition {partition}, which has no events"


def _rows_of(partition: int, oracle: Oracle) -> dict[int, StoredEvent]:
    rows = {}
    for (cookie, action), events in oracle.users.items():
        for at, offset, event in events:
            product = event["product_info"]
            rows[offset] = StoredEvent(partition, offset, str(product["product_id"]), cookie, action, at, product["price"])
    return rows


def postgres_cells_equal_the_topic(evidence: Evidence) -> Iterator[str]:
    """Each cell of each partition has the count and the sum of the topic."""
    yield from _cells_by_partition("postgres", evidence, evidence.stored_cells)


def changelogs_equal_the_topic(evidence: Evidence) -> Iterator[str]:
    """What a recovery would read is exact, and every key has had one value (the law)."""
    yield from _cells_by_partition("the changelog", evidence, evidence.logged_cells)
    for partition, oracle in sorted(evidence.recomputed.items()):
        expected = {(*user, offset) for user, events in oracle.users.items() for _, offset, _ in events}
        found = evidence.logged_rows.get(partition, set())
        yield from (f"the changelog lacks the row {row} of partition {partition}" for row in sorted(expected - found))
        yield from (f"the changelog has a row {row} of partition {partition} too many" for row in sorted(found - expected))
    yield from (f"two values were written under {key}" for key in evidence.two_values)


def answers_equal_the_topic(evidence: Evidence) -> Iterator[str]:
    """Each cell that HTTP answers, and each minute of each action without other filters, is that of the topic."""
    totals = evidence.recomputed_whole.totals()
    yield from differences("cells over http", totals, evidence.answered)
    by_kind: Totals = {}
    for (minute, action, *_), (count, total) in totals.items():
        known = by_kind.get((minute, action), (0, 0))
        by_kind[minute, action] = (known[0] + count, known[1] + total)
    yield from differences("minutes over http", by_kind, evidence.answered_by_kind)


def profiles_equal_the_topic(evidence: Evidence) -> Iterator[str]:
    """Each profile has its events, whole, in order, and no other."""
    oracle = evidence.recomputed_whole
    cookies = {cookie for cookie, _ in oracle.users} | set(evidence.profiles)
    expected = {cookie: oracle.profile(cookie, 0, END_OF_TIME_MS) for cookie in cookies}
    for cookie in sorted(cookies):
        if expected[cookie] != evidence.profiles.get(cookie):
            yield f"profile {cookie}: {_difference_of_profiles(expected[cookie], evidence.profiles.get(cookie))}"


def _difference_of_profiles(expected: dict[str, Any], found: Any) -> str:
    if not isinstance(found, dict):
        return f"the answer is {found!r}"
    lists = [Counter(_numbers_of_profile(profile)) for profile in (expected, found)]
    return f"lacks {sorted(lists[0] - lists[1])[:EXAMPLES_MAX]}, has too many {sorted(lists[1] - lists[0])[:EXAMPLES_MAX]}"


def _numbers_of_profile(profile: dict[str, Any]) -> Iterable[str]:
    return (str(event["product_info"]["product_id"]) for name in ("views", "buys") for event in profile.get(name, ()))


def _cells_by_partition(where: str, evidence: Evidence, found: Mapping[int, Totals]) -> Iterator[str]:
    for partition in sorted({*evidence.recomputed, *found}):
        oracle = evidence.recomputed.get(partition, Oracle())
        yield from differences(f"partition {partition} of {where}", oracle.totals(), found.get(partition, {}))


def differences(where: str, expected: Mapping[Any, Hashable], found: Mapping[Any, Hashable]) -> Iterator[str]:
    """Yield what *found* has unlike *expected*.

    >>> list(differences("x", {1: "a", 2: "b"}, {2: "c"}))
    ["x: 1 is None and should be 'a'", "x: 2 is 'c' and should be 'b'"]
    """
    for key in sorted({*expected, *found}):
        if expected.get(key) != found.get(key):
            yield f"{where}: {key} is {found.get(key)!r} and should be {expected.get(key)!r}"


# -- dead letters, progress, hygiene


def dead_letters_are_the_expected(evidence: Evidence) -> Iterator[str]:
    """Topic and table hold one dead letter for each record that cannot be counted, with its reason, and no other."""
    yield from differences("the table dead_letters", evidence.expected_dead, evidence.dead_letters)
    yield from differences("the topic of dead letters", evidence.expected_dead, evidence.dead_letter_records)


def answers_never_fall(evidence: Evidence) -> Iterator[str]:
    """What was counted once stays counted: in no minute does a later answer say less."""
    answered = [sample.counts for sample in evidence.samples if sample.counts is not None]
    for before, after in pairwise(answered):
        for minute, count in before.items():
            if after.get(minute, 0) < count:
                yield f"minute {minute} fell from {count} to {after.get(minute, 0)}"


def stored_never_falls(evidence: Evidence) -> Iterator[str]:
    """Rows of Postgres do not go away."""
    stored = [sample.stored for sample in evidence.samples if sample.stored is not None]
    yield from (f"postgres fell from {before} events to {after}" for before, after in pairwise(stored) if after < before)


def all_recovered(evidence: Evidence) -> Iterator[str]:
    """After the heal everything is counted in time, without a hand."""
    if evidence.not_drained:
        yield evidence.not_drained


def handles_do_not_pile_up(evidence: Evidence) -> Iterator[str]:
    """Who lived through the case holds as many files and connections as before it."""
    for before, after in _lived_through(evidence):
        yield from handles_grown(before, after)


def memory_does_not_pile_up(evidence: Evidence) -> Iterator[str]:
    """Who lived through the case holds no more memory than before it, but for what has a limit."""
    for before, after in _lived_through(evidence):
        yield from memory_grown(before, after)


def _lived_through(evidence: Evidence) -> Iterator[tuple[Held, Held]]:
    warm = {(held.name, held.pid): held for held in evidence.warm}
    yield from ((warm[held.name, held.pid], held) for held in evidence.settled if (held.name, held.pid) in warm)


def handles_grown(before: Held, after: Held) -> Iterator[str]:
    """Say where a process holds many more handles than before: beyond a tenth, `HANDLES_MORE_MAX`."""
    allowed = int(before.handles * HANDLES_SHARE_MAX) + HANDLES_MORE_MAX
    if after.handles > allowed:
        yield f"{after.name} holds {after.handles} handles; {before.handles} before, {allowed} allowed"


def memory_grown(before: Held, after: Held) -> Iterator[str]:
    """Say where a process holds much more memory than before and than it explains: `MEMORY_MORE_BYTES_MAX`."""
    grown = after.resident_bytes - before.resident_bytes
    allowed = max(0, after.explained_bytes - before.explained_bytes) + MEMORY_MORE_BYTES_MAX
    if grown > allowed:
        yield f"{after.name} grew by {grown / MIB:.0f} MiB to {after.resident_bytes / MIB:.0f}, allowed {allowed / MIB:.0f}"


def no_temporary_file_is_left(evidence: Evidence) -> Iterator[str]:
    """A crash may leave one; the next start takes it away."""
    yield from (f"a temporary file is left: {name}" for name in evidence.temporary_files)


def nothing_unexpected_was_logged(evidence: Evidence) -> Iterator[str]:
    """ERROR wakes someone: every such line must be explained by the fault."""
    yield from evidence.error_lines


EXACT: tuple[Check, ...] = (
    acknowledged_are_in_the_topic,
    counted_were_acknowledged_or_unknown,
    acknowledged_are_counted,
    nothing_is_there_twice,
    postgres_events_equal_the_topic,
    postgres_cells_equal_the_topic,
    changelogs_equal_the_topic,
    answers_equal_the_topic,
    profiles_equal_the_topic,
    dead_letters_are_the_expected,
    answers_never_fall,
    stored_never_falls,
    all_recovered,
    handles_do_not_pile_up,
    memory_does_not_pile_up,
    no_temporary_file_is_left,
    nothing_unexpected_was_logged,
)
"""The checks of every case."""


def problems_of(evidence: Evidence, checks: Iterable[Check] = EXACT) -> dict[str, list[str]]:
    """Return what each check found, by its name; those that found nothing are left out."""
    found = {check.__name__: list(check(evidence)) for check in checks}
    return {name: problems for name, problems in found.items() if problems}


# -- figures of the table


def recover_s(evidence: Evidence) -> float | None:
    """Return how long after the last mark everything acknowledged before it was counted over HTTP and in Postgres.

    None where that was never seen, or nothing was marked.
    """
    if not evidence.marks:
        return None
    mark = evidence.marks[-1]
    for sample in evidence.samples:
        counted = min(sum((sample.counts or {}).values()), sample.stored or 0)
        if sample.at_s >= mark.at_s and counted >= mark.acknowledged:
            return sample.at_s - mark.at_s
    return None


def longest_stall_s(evidence: Evidence) -> float:
    """Return the longest time in which HTTP showed nothing more, although more had been acknowledged."""
    longest_s, moved_at_s, shown = 0.0, None, -1
    for sample in evidence.samples:
        counted = -1 if sample.counts is None else sum(sample.counts.values())
        if moved_at_s is None or counted > shown or counted >= sample.acknowledged:
            moved_at_s, shown = sample.at_s, max(shown, counted)
        longest_s = max(longest_s, sample.at_s - moved_at_s)
    return longest_s


def longest_silence_s(evidence: Evidence) -> float:
    """Return the longest time in which no query was answered."""
    answered = [sample.at_s for sample in evidence.samples if sample.counts is not None]
    return max((after - before for before, after in pairwise(answered)), default=0.0)
