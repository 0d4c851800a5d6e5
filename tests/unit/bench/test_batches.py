"""The load of many events a request is what it says, and its figures add up."""

from __future__ import annotations

import json
from itertools import islice

import pytest

from bench.batch_load import BatchLoad, BatchPlan, length_of
from bench.cases import gateway, gateway_batches
from streams.clock import SYSTEM_CLOCK
from tests.support.events_door import EventsDoor

PLAN = BatchPlan(port=1, connections=1, seconds=1, rate=None, seed=1, events=20, credentials=None)


async def test_no_event_of_the_load_comes_twice_and_all_are_taken() -> None:
    """An id that came before would be answered `duplicate`, and cost next to nothing."""
    door = EventsDoor()
    door.clock.step((SYSTEM_CLOCK.now_ms() - door.clock.now_ms()) / 1000)
    ids: set[str] = set()
    for request in islice(BatchLoad(PLAN).requests(), 120):
        head, _, body = request.partition(b"\r\n\r\n")
        assert length_of(head) == len(body)
        answered = await door.post(body)
        assert set(answered.words.values()) == {"ok"}
        ids |= {event["id"] for event in json.loads(body)["batch"]}
    assert len(ids) == 120 * PLAN.events


def test_costs_are_those_of_an_event() -> None:
    """A request has 500 of them."""
    busy, calm = gateway.Loaded(1_000, 2.0, 2.5, 3.0, 9.0), gateway.Loaded(200, 10.0, 0.2, 4.0, 8.0)
    figures = {figure.name: figure.value for figure in gateway_batches.figures(busy, calm)}
    assert figures["CPU"] == pytest.approx(5.0)
    assert figures["events a core"] == pytest.approx(200_000)
    assert figures["closed loop, wall"] == 250_000
    assert figures["at 10,000 events/s, p99"] == 8.0
