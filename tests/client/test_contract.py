"""The client contract, case by case, for both clients against a collector that writes everything down."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from tally_client import bearer
from tally_client.outcomes import Outcome

from tests.client import test_cancellation, test_processes, test_queue, test_spool
from tests.client.checks import CHECKS, Run
from tests.client.conftest import Opening
from tests.client.recording import Recorder

BY_CATEGORY: dict[str, dict[str, dict[str, Any]]] = yaml.safe_load(
    (Path(__file__).parent / "contract.yaml").read_text(encoding="utf-8")
)
CASES = [(f"{category}/{name}", case) for category, cases in BY_CATEGORY.items() for name, case in cases.items()]
APPLICABLE = {
    "endpoint_and_method": 2,
    "required_headers": 7,
    "body_format": 3,
    "event_format": 21,  # Six of them with objects inside properties, where the harness has its product's own.
    "batch_behavior": 4,  # Without created_at_reflects_batch_creation_time: our body has no such field.
    "deduplication": 6,
    "header_behavior_on_retry": 5,
    "response_format_validation": 6,
    "retry_behavior": 15,  # With retries_on_502, which only v0 has.
    "partial_batch_handling": 13,
    "compression": 5,  # Without brotli.
    "error_handling": 1,
}


ELSEWHERE = {
    "fork": test_processes.test_parent_and_child_each_send_their_own,
    "spool survives SIGKILL": test_processes.test_spooled_events_survive_a_kill,
    "spool cap, size": test_spool.test_a_spool_has_its_bytes_and_refuses_more,
    "spool cap, policy": test_spool.test_a_full_spool_makes_room_by_its_oldest,
    "spool cap, age": test_spool.test_spooled_events_grow_old,
    "spool, corrupt record": test_spool.test_a_damaged_record_is_skipped_alone,
    "queue full, drop_newest": test_queue.test_a_full_queue_refuses_the_newest,
    "queue full, drop_oldest": test_queue.test_a_full_queue_gives_up_the_oldest,
    "queue full, block": test_queue.test_a_full_queue_makes_its_caller_wait_for_room,
    "queue full, spool": test_spool.test_what_memory_cannot_hold_goes_to_disk,
    "collector down 10 min, then up": test_queue.test_an_outage_of_ten_minutes_loses_nothing,
    "clock jump": test_queue.test_a_jump_of_the_wall_clock_changes_no_delay_and_no_age,
    "10 threads x 10,000 events": test_processes.test_ten_threads_lose_nothing_over_a_restart,
    "interpreter exit": test_processes.test_an_exit_takes_two_seconds_and_spools_the_rest,
    "asyncio cancellation": test_cancellation.test_cancellations_at_any_moment_lose_and_repeat_nothing,
    "on_error raising inside": test_queue.test_what_hooks_raise_harms_nobody,
    "flush(timeout) false on a dead collector": test_queue.test_flush_is_false_on_a_dead_collector,
    "before_send returning None": test_queue.test_before_send_may_drop_and_change,
    "no payload or key in any log line": test_queue.test_neither_events_nor_keys_are_in_a_log,
    "sync mode": test_queue.test_sync_delivers_or_raises,
    "flush inside callbacks": test_queue.test_a_callback_may_capture_and_flush,
    "durable events": test_spool.test_durable_events_go_through_the_disk_and_leave_it,
}
"""Cases of the contract that are more than what goes over the wire, and the tests that hold them; with Postgres at the end they
are tests/integration/test_client.py. 429 with Retry-After and the 413 split are data, above."""


def fields_of(event: dict[str, Any], number: int) -> dict[str, Any]:
    """Return the fields to capture; what YAML cannot say or should not is written as an object of one key."""
    fields = {"user_id": f"user-{number}", **event}
    fields["properties"] = {name: spelled_out(value) for name, value in fields.get("properties", {"number": number}).items()}
    return fields


def spelled_out(value: Any) -> Any:
    match value:
        case {"repeat": [text, count]}:
            return text * count
        case {"nan": None}:
            return float("nan")
    return value


@pytest.mark.parametrize(("name", "case"), CASES, ids=[name for name, _ in CASES])
def test_client_keeps_the_contract(name: str, case: dict[str, Any], recorder: Recorder, open_client: Opening) -> None:
    """Each case is one sentence of notes §6.1-§6.3; what it must hold stands beside its name."""
    recorder.script(case.get("answers", ()))
    outcomes: list[Outcome] = []
    credentials = case.get("credentials", bearer("a-token"))
    client = open_client(credentials, on_success=outcomes.append, on_error=outcomes.append, **case.get("options", {}))
    captured: list[str | None] = []
    for events in case.get("rounds", [case.get("events")]):
        listed = [{}] * events if isinstance(events, int) else events
        captured += [client.capture(**fields_of(event, number)) for number, event in enumerate(listed)]
        if case.get("flush", True):
            assert client.flush()
        else:
            client.wait_for(lambda: client.stats().waiting == 0)
    client.close()
    run = Run(recorder.seen, outcomes, captured)
    assert len(outcomes) == len(captured), "each event has one outcome"
    assert case["expect"]
    for check, wanted in case["expect"].items():
        CHECKS[check](run, wanted)


def test_every_case_that_applies_is_here() -> None:
    """A case that is left out by mistake would be missed by nobody."""
    counted = {category: len(cases) for category, cases in BY_CATEGORY.items() if category != "ours"}
    assert counted == APPLICABLE
    assert not [name for name, many in Counter(re.sub(".*/", "", name) for name, _ in CASES).items() if many > 1]


def test_cases_that_are_no_data_have_a_test_each() -> None:
    """A test that is renamed or left out takes its case along; this names it."""
    assert len({test.__qualname__ for test in ELSEWHERE.values()}) == len(ELSEWHERE)
    assert all(test.__doc__ for test in ELSEWHERE.values())


def test_no_word_is_unused() -> None:
    """A check that no case asks for is dead."""
    assert {check for _, case in CASES for check in case["expect"]} == set(CHECKS)
