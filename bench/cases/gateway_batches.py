"""What the front door of many events costs: 500 a request, `acks=all`, authentication off, from a process of its own.

CPU is that of all threads of the gateway; a closed loop keeps a few connections busy. Every `ok` must be a record in the topic,
no more and no fewer. Bodies are plain JSON of some 290 bytes an event; expanding gzip would add about 1 µs an event.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from bench.case import Case, Figure
from bench.cases.gateway import Load, Loaded, measure
from bench.progress import CPU_UNIT
from streams.topics import EVENTS

EVENTS_PER_REQUEST = 500
CONNECTIONS = 4
OPEN_RATE = 20.0
RATE_UNIT = "events/s"
BATCHES = Load(
    "bench.batch_load", EVENTS.topic, {"connections": CONNECTIONS, "events": EVENTS_PER_REQUEST}, events=EVENTS_PER_REQUEST
)


def figures(busy: Loaded, calm: Loaded) -> Iterator[Figure]:
    """Yield what two loads say: one that never pauses, one of `OPEN_RATE` requests a second."""
    event_us = busy.cpu_us / EVENTS_PER_REQUEST
    yield Figure("CPU", event_us, CPU_UNIT, goal=6.6)
    yield Figure("events a core", 1e6 / event_us, RATE_UNIT, goal=150_000, more_is_better=True)
    yield Figure("closed loop, wall", busy.answered * EVENTS_PER_REQUEST / busy.wall_s, RATE_UNIT, more_is_better=True)
    rate = f"at {OPEN_RATE * EVENTS_PER_REQUEST:,.0f} events/s"
    yield Figure(f"{rate}, p50", calm.p50_ms, "ms")
    yield Figure(f"{rate}, p99", calm.p99_ms, "ms")


CASE = Case("gateway_batches", "the front door, 500 events a request", partial(measure, BATCHES, OPEN_RATE, figures))
