"""What a producer past its quota does to another: the latency of one that keeps to its own, alone and beside the noise.

The quiet producer sends an event a request at a fixed rate: alone, while a noisy one asks another gateway on this machine, and
while it asks the same one, since generators, Kafka and gateways share the cores. These take turns. The noisy one may send a
twentieth of what it asks for, so that nearly all of its requests are 429. Every answer of the quiet one must be `ok`.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import msgspec

from bench.backlogs import run_folder
from bench.case import Case, Figure
from bench.cases.gateway import Gateway, Load, empty_kafka, put_load, run_load, running_gateway
from bench.progress import BenchError
from gateway.auth.api_keys import new_key
from gateway.auth.key_file import changing
from streams.clock import SYSTEM_CLOCK
from streams.topics import EVENTS

QUIET_RATE = 500.0
"""Requests a second."""
NOISY_RATE = 2_000.0
NOISY_QUOTA = 100.0
CONNECTIONS = 16
WARM_UP_S = 2.0
TURN_S = 6.0
OVERLAP_S = 3.0
"""The noise lasts longer than a turn by this: both generators take a second to start."""
TURNS = 3
REFUSED_MIN = 0.8
RISE_GOAL = 20.0


Turns = dict[str, list[float]]
"""Latencies of the quiet producer by where the noise was, ms, a value a turn."""
ALONE, ELSEWHERE, BESIDE = "alone", "noise at another gateway", "beside the noise"


def measure() -> Iterator[Figure]:
    """Run a Kafka and two gateways, and let the quiet producer send to one of them."""
    with run_folder() as home, empty_kafka(home) as servers, gateways_with_keys(servers, home) as (gateway, other):
        quiet, noisy = load_of(home / "quiet.txt"), load_of(home / "noisy.txt")
        p50: Turns = {}
        p99: Turns = {}
        put_load(gateway, quiet, seconds=WARM_UP_S)
        for _ in range(TURNS):
            for where, asked in ((ALONE, None), (ELSEWHERE, other), (BESIDE, gateway)):
                with noise(asked, noisy) if asked else nullcontext():
                    loaded = put_load(gateway, quiet, seconds=TURN_S, rate=QUIET_RATE)
                p50.setdefault(where, []).append(loaded.p50_ms)
                p99.setdefault(where, []).append(loaded.p99_ms)
    yield from figures(p50, p99)


def figures(p50: Turns, p99: Turns) -> Iterator[Figure]:
    """Yield the median turn of each, and by how much the noise at the same gateway raises the p99."""
    for name, turns in (("p50", p50), ("p99", p99)):
        for where, values in turns.items():
            yield Figure(f"{where}, {name}", median(values), "ms")
    raised = median(p99[BESIDE]) / median(p99[ELSEWHERE]) - 1
    yield Figure("p99 is raised by sharing the gateway", raised * 100, "%", goal=RISE_GOAL)


@contextmanager
def gateways_with_keys(servers: str, home: Path) -> Iterator[tuple[Gateway, Gateway]]:
    """Run two gateways that know two keys, of which one has a quota; each is in a file for its generator."""
    made_at = datetime.fromtimestamp(SYSTEM_CLOCK.now_ms() / 1000, UTC)
    path = home / "keys.json"
    for name, quota in (("quiet", 0.0), ("noisy", NOISY_QUOTA)):
        stored, shown = new_key(name, created_at=made_at, products=None, streams=[EVENTS.topic])
        with changing(path) as keys:
            keys[stored.prefix] = msgspec.structs.replace(stored, events_per_s=quota)
        (home / f"{name}.txt").write_text(f"ApiKey {shown}\n")
    settings = {"TALLY_AUTH_EVENTS": "on", "TALLY_AUTH_KEYS_FILE": str(path)}
    with (
        running_gateway(servers, home / "gateway.log", settings) as gateway,
        running_gateway(servers, home / "other.log", settings) as other,
    ):
        yield gateway, other


def load_of(credentials: Path) -> Load:
    """Return what one producer sends."""
    return Load("bench.batch_load", EVENTS.topic, {"connections": CONNECTIONS, "events": 1, "credentials": credentials})


@contextmanager
def noise(gateway: Gateway, load: Load) -> Iterator[None]:
    """Have a producer ask for more than its quota meanwhile.

    Raises:
        BenchError: it was let in.
    """
    asked = {"port": gateway.port, "seconds": TURN_S + OVERLAP_S, "rate": NOISY_RATE, "past-quota": True}
    with ThreadPoolExecutor(max_workers=1) as pool:
        running = pool.submit(run_load, load.module, {**load.options, **asked})
        yield
        said = running.result()
    if said["refused"] < REFUSED_MIN * said["answered"]:
        raise BenchError(f"of {said['answered']} requests past the quota only {said['refused']} were refused")


CASE = Case("noisy", "a producer past its quota beside one that keeps to its own", measure)
