"""The checks find what they are for: each fault is planted in the evidence of an honest run, where they found nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.fault.checks import (
    EXACT,
    MEMORY_MORE_BYTES_MAX,
    MIB,
    Check,
    longest_silence_s,
    longest_stall_s,
    problems_of,
    recover_s,
)
from tests.fault.events import an_event
from tests.fault.evidence import Evidence, Held, Mark, Sample, StoredEvent, TopicRecord, Totals
from tests.fault.ledger import Entry, Outcome, Way

SEED = 3
EVENTS = 240
PARTITIONS = 3
DEAD = (2, EVENTS // PARTITIONS)
REFUSED, UNKNOWN_STORED, UNKNOWN_LOST = EVENTS + 1, EVENTS, EVENTS + 2


@pytest.fixture
def honest() -> Evidence:
    """What an exact run leaves: one event refused, one unknown and stored, one unknown and not, and one dead letter."""
    values = {number: an_event(SEED, number, cookies=12).value for number in range(1, EVENTS + 3)}
    places = {number: (number % PARTITIONS, (number - 1) // PARTITIONS) for number in range(1, EVENTS + 1)}
    evidence = Evidence(
        ledger=[Entry(number, value, Way.KAFKA, Outcome.ACKNOWLEDGED, places.get(number)) for number, value in values.items()],
        topic=[TopicRecord(*places[number], values[number]) for number in places] + [TopicRecord(*DEAD, b"{")],
        expected_dead={DEAD: "not_json"},
        dead_letters={DEAD: "not_json"},
        dead_letter_records={DEAD: "not_json"},
        samples=[Sample(at_s, 10 * at_s, {"m": 10 * at_s}, 10 * at_s) for at_s in range(5)],
        warm=[Held("gateway", 7, 100, 90 * MIB), Held("worker-0", 8, 200, 200 * MIB, 10 * MIB), Held("kafka", 9, 400, 0)],
        settled=[Held("gateway", 7, 105, 95 * MIB), Held("worker-0", 8, 230, 400 * MIB, 190 * MIB), Held("kafka", 9, 410, 0)],
    )
    for number, outcome in ((REFUSED, Outcome.REFUSED), (UNKNOWN_STORED, Outcome.UNKNOWN), (UNKNOWN_LOST, Outcome.UNKNOWN)):
        entry = evidence.ledger[number - 1]
        entry.outcome, entry.place = outcome, None
    fill_in_results(evidence)
    return evidence


def fill_in_results(evidence: Evidence) -> None:
    """Make every form of the result what the topic says."""
    whole = evidence.recomputed_whole
    evidence.answered = whole.totals()
    for (minute, action, *_), (count, total) in evidence.answered.items():
        before = evidence.answered_by_kind.get((minute, action), (0, 0))
        evidence.answered_by_kind[minute, action] = (before[0] + count, before[1] + total)
    evidence.profiles = {cookie: whole.profile(cookie, 0, 1 << 60) for cookie, _ in whole.users}
    for partition, oracle in evidence.recomputed.items():
        evidence.stored_cells[partition] = oracle.totals()
        evidence.logged_cells[partition] = oracle.totals()
        evidence.logged_rows[partition] = {(*user, row[1]) for user, rows in oracle.users.items() for row in rows}
        evidence.stored_events += [
            StoredEvent(partition, offset, str(event["product_info"]["product_id"]), *user, at, event["product_info"]["price"])
            for user, rows in oracle.users.items()
            for at, offset, event in rows
        ]


def test_an_honest_run_has_no_problem(honest: Evidence) -> None:
    """Or every case would fail; it holds each outcome that an event may have."""
    assert problems_of(honest) == {}
    assert {entry.outcome for entry in honest.ledger} == set(Outcome)


# -- faults in the log


def drop_from_topic(evidence: Evidence) -> None:
    """The broker forgot an acknowledged event, and everything derived from it is consistent."""
    del evidence.topic[7]
    forget_results(evidence)


def move_in_topic(evidence: Evidence) -> None:
    """An event is not where it was acknowledged: another one has its place."""
    one, two = evidence.topic[3], evidence.topic[6]
    evidence.topic[3], evidence.topic[6] = one._replace(value=two.value), two._replace(value=one.value)
    forget_results(evidence)


def store_twice(evidence: Evidence) -> None:
    """A producer's retry was not recognised: two records with one identity, each counted."""
    evidence.topic.append(evidence.topic[7]._replace(offset=EVENTS))
    forget_results(evidence)


def store_refused(evidence: Evidence) -> None:
    """The gateway said that an event is not stored, and it is."""
    evidence.topic.append(TopicRecord(0, EVENTS, evidence.ledger[REFUSED - 1].value))
    forget_results(evidence)


def store_never_sent(evidence: Evidence) -> None:
    """An event that nobody sent."""
    evidence.topic.append(TopicRecord(0, EVENTS, an_event(SEED, 99_999, cookies=12).value))
    forget_results(evidence)


def change_on_the_way(evidence: Evidence) -> None:
    """Other bytes than were sent, of the same event."""
    record = evidence.topic[7]
    assert record.value is not None
    evidence.topic[7] = record._replace(value=record.value.replace(b'"country":"PL"', b'"country":"DE"'))
    forget_results(evidence)


def forget_results(evidence: Evidence) -> None:
    """Derive the results anew from a topic that was changed."""
    for name in ("recomputed", "recomputed_whole"):
        evidence.__dict__.pop(name, None)
    evidence.answered_by_kind, evidence.stored_events = {}, []
    fill_in_results(evidence)


# -- faults in one form of the result


def change_cell(totals: Totals, *, events: int = 0, price: int = 0) -> None:
    """Change the first cell."""
    cell = min(totals)
    count, total = totals[cell]
    totals[cell] = (count + events, total + price)


def move_minute(totals: Totals) -> None:
    """Count the first cell in a minute in which it has nothing, so that the total stays right."""
    cell = min(totals)
    totals["2022-03-01T00:59", *cell[1:]] = totals.pop(cell)


def drop_row(evidence: Evidence) -> None:
    """Postgres lacks an event."""
    del evidence.stored_events[11]


def repeat_row(evidence: Evidence) -> None:
    """Postgres has an event twice."""
    evidence.stored_events.append(evidence.stored_events[11])


def move_row(evidence: Evidence) -> None:
    """Postgres has an event at another minute."""
    row = evidence.stored_events[11]
    evidence.stored_events[11] = row._replace(at_ms=row.at_ms + 60_000)


def drop_from_profile(evidence: Evidence) -> None:
    """A profile lacks its newest event."""
    profile = next(profile for _, profile in sorted(evidence.profiles.items()) if profile["views"])
    del profile["views"][0]


def repeat_in_profile(evidence: Evidence) -> None:
    """A profile has an event twice."""
    profile = next(profile for _, profile in sorted(evidence.profiles.items()) if profile["views"])
    profile["views"].insert(0, profile["views"][0])


def fall(evidence: Evidence) -> None:
    """A takeover took back what was shown."""
    evidence.samples[3] = evidence.samples[3]._replace(counts={"m": 19})


def fall_in_postgres(evidence: Evidence) -> None:
    """Rows went away."""
    evidence.samples[3] = evidence.samples[3]._replace(stored=19)


def pile_up(evidence: Evidence, name: str, *, handles: int = 0, bytes_: int = 0) -> None:
    """A process holds so much more at the end."""
    at = next(number for number, held in enumerate(evidence.settled) if held.name == name)
    held = evidence.settled[at]
    evidence.settled[at] = held._replace(handles=held.handles + handles, resident_bytes=held.resident_bytes + bytes_)


PLANTED: tuple[tuple[str, Callable[[Evidence], object]], ...] = (
    ("acknowledged_are_in_the_topic", drop_from_topic),
    ("acknowledged_are_counted", drop_from_topic),
    ("acknowledged_are_in_the_topic", move_in_topic),
    ("acknowledged_are_in_the_topic", change_on_the_way),
    ("nothing_is_there_twice", store_twice),
    ("counted_were_acknowledged_or_unknown", store_refused),
    ("counted_were_acknowledged_or_unknown", store_never_sent),
    ("acknowledged_are_counted", drop_row),
    ("postgres_events_equal_the_topic", drop_row),
    ("nothing_is_there_twice", repeat_row),
    ("postgres_events_equal_the_topic", move_row),
    ("postgres_cells_equal_the_topic", lambda evidence: change_cell(evidence.stored_cells[1], events=-1)),
    ("postgres_cells_equal_the_topic", lambda evidence: change_cell(evidence.stored_cells[1], price=1)),
    ("postgres_cells_equal_the_topic", lambda evidence: move_minute(evidence.stored_cells[1])),
    ("postgres_cells_equal_the_topic", lambda evidence: evidence.stored_cells.pop(2)),
    ("changelogs_equal_the_topic", lambda evidence: change_cell(evidence.logged_cells[0], events=1)),
    ("changelogs_equal_the_topic", lambda evidence: evidence.logged_rows[0].pop()),
    ("changelogs_equal_the_topic", lambda evidence: evidence.logged_rows[0].add(("cookie-1", "VIEW", 10_000))),
    ("changelogs_equal_the_topic", lambda evidence: evidence.two_values.append("a key")),
    ("answers_equal_the_topic", lambda evidence: change_cell(evidence.answered, events=1)),
    ("answers_equal_the_topic", lambda evidence: move_minute(evidence.answered)),
    ("answers_equal_the_topic", lambda evidence: move_minute(evidence.answered_by_kind)),
    ("profiles_equal_the_topic", drop_from_profile),
    ("profiles_equal_the_topic", repeat_in_profile),
    ("profiles_equal_the_topic", lambda evidence: evidence.profiles.popitem()),
    ("dead_letters_are_the_expected", lambda evidence: evidence.dead_letters.clear()),
    ("dead_letters_are_the_expected", lambda evidence: evidence.dead_letter_records.update({(0, 1): "schema"})),
    ("dead_letters_are_the_expected", lambda evidence: evidence.dead_letters.update({DEAD: "schema"})),
    ("answers_never_fall", fall),
    ("stored_never_falls", fall_in_postgres),
    ("all_recovered", lambda evidence: setattr(evidence, "not_drained", "http shows 3 of 4 events")),
    ("handles_do_not_pile_up", lambda evidence: pile_up(evidence, "gateway", handles=100)),
    ("handles_do_not_pile_up", lambda evidence: pile_up(evidence, "kafka", handles=100)),
    ("memory_does_not_pile_up", lambda evidence: pile_up(evidence, "gateway", bytes_=MEMORY_MORE_BYTES_MAX)),
    ("memory_does_not_pile_up", lambda evidence: pile_up(evidence, "worker-0", bytes_=MEMORY_MORE_BYTES_MAX)),
    ("no_temporary_file_is_left", lambda evidence: evidence.temporary_files.append("log/worker-0.tmp")),
    ("nothing_unexpected_was_logged", lambda evidence: evidence.error_lines.append("worker-0: [ERROR] oh")),
)


@pytest.mark.parametrize(("check", "plant"), PLANTED)
def test_a_planted_fault_is_found(honest: Evidence, check: str, plant: Callable[[Evidence], object]) -> None:
    """A proof that cannot fail proves nothing."""
    plant(honest)
    assert check in problems_of(honest)


@pytest.mark.parametrize("check", EXACT, ids=lambda check: check.__name__)
def test_every_check_has_a_planted_fault(check: Check) -> None:
    """Also those that are added later."""
    assert check.__name__ in {name for name, _ in PLANTED}


def test_two_mistakes_that_cancel_out_are_found(honest: Evidence) -> None:
    """Totals stay right when one event is lost and another counted twice: identities tell."""
    honest.stored_events[5] = replace_place(honest.stored_events[9], honest.stored_events[5])
    found = problems_of(honest)
    assert {"acknowledged_are_counted", "nothing_is_there_twice", "postgres_events_equal_the_topic"} <= set(found)


def replace_place(row: StoredEvent, other: StoredEvent) -> StoredEvent:
    return row._replace(partition=other.partition, offset=other.offset)


def test_a_process_that_was_started_meanwhile_is_not_compared(honest: Evidence) -> None:
    """What a new process holds says nothing of the one before it."""
    pile_up(honest, "worker-0", handles=1_000, bytes_=10 * MEMORY_MORE_BYTES_MAX)
    honest.settled[1] = honest.settled[1]._replace(pid=80)
    assert problems_of(honest) == {}


# -- figures


def test_recovery_is_counted_from_the_last_mark_until_all_of_before_is_counted() -> None:
    """What is sent after the mark does not matter: under load there is always something on its way."""
    samples = [
        Sample(0, 10, {"m": 10}, 10),
        Sample(5, 50, None, 10),
        Sample(6, 60, {"m": 40}, 30),
        Sample(7, 70, {"m": 45}, 40),
    ]
    marks = [Mark(1, 20, "kill"), Mark(4, 40, "heal")]
    assert recover_s(Evidence(samples=samples, marks=marks)) == 3
    assert recover_s(Evidence(samples=samples[:3], marks=marks)) is None
    assert recover_s(Evidence(samples=samples)) is None


def test_a_stall_is_a_time_without_progress_although_there_is_something_to_count() -> None:
    """An idle system does not stall; one that answers nothing does."""
    idle = [Sample(at_s, 10, {"m": 10}, 10) for at_s in range(5)]
    assert longest_stall_s(Evidence(samples=idle)) == 0
    stalled = [Sample(0, 10, {"m": 10}, 0), Sample(1, 20, {"m": 10}, 0), Sample(3, 30, None, 0), Sample(4, 40, {"m": 40}, 0)]
    assert longest_stall_s(Evidence(samples=stalled)) == 3
    assert longest_silence_s(Evidence(samples=stalled)) == 3
