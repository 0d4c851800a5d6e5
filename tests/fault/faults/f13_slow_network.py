"""F13: a slow line to the broker: late, narrow, in small pieces, and all of that; the work goes on during each."""

from __future__ import annotations

from dataclasses import dataclass

from tests.fault.case import Case, Workload
from tests.fault.observer import events_shown
from tests.fault.stage import GATEWAY, SINKS, Stage, System

PROGRESS_WITHIN_S = 60.0


@dataclass(frozen=True)
class Slowness:
    """How slow a form of the case is.

    Attributes:
        each_s: how long each kind lasts at the least.
    """

    delay_s: float
    jitter_s: float
    bytes_per_s: float
    piece_bytes_max: int
    each_s: float


SHORT = Slowness(delay_s=0.1, jitter_s=0.1, bytes_per_s=100_000, piece_bytes_max=256, each_s=4.0)
LONG = Slowness(delay_s=0.5, jitter_s=0.25, bytes_per_s=10_000, piece_bytes_max=64, each_s=30.0)
KINDS = ("late", "narrow", "in pieces", "all of it")


def inject(stage: Stage) -> None:
    slowness = LONG if stage.is_long else SHORT
    kinds = [*KINDS]
    stage.chance.shuffle(kinds)
    if not stage.kafka_proxy.open_connections:
        raise AssertionError("nobody comes by the proxy")
    for kind in kinds:
        stage.mark(f"the line is slow: {kind}")
        slow_down(stage, kind, slowness)
        shown_before = stage.ledger.acknowledged
        stage.sleep(slowness.each_s)
        stage.wait_until(
            lambda before=shown_before: events_shown(stage.gateway_port) > before,  # type: ignore[misc]
            "an event that was acknowledged while the line was slow is counted",
            within_s=PROGRESS_WITHIN_S,
        )
        stage.kafka_proxy.heal()


def slow_down(stage: Stage, kind: str, slowness: Slowness) -> None:
    """Make the line slow in one way, or in all."""
    is_all = kind == "all of it"
    if is_all or kind == "late":
        stage.kafka_proxy.latency(slowness.delay_s, slowness.jitter_s)
    if is_all or kind == "narrow":
        stage.kafka_proxy.bandwidth(slowness.bytes_per_s)
    if is_all or kind == "in pieces":
        stage.kafka_proxy.slice(slowness.piece_bytes_max)


def heal(stage: Stage) -> None:
    stage.kafka_proxy.heal()


CASE = Case(
    id="F13",
    title="a slow line to the broker",
    inject=inject,
    heal=heal,
    workload=Workload(events=1_500, rate=100, events_long=3_000, rate_long=30),
    system=System(kafka_proxy_of=("worker-0", GATEWAY, SINKS)),
)
