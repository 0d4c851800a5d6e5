"""How fast queries are answered while events come in: the whole job on this machine, and the load generator against it.

1,000 tags a second, 100 profile queries and 1 aggregates query, open loop, each latency from when the request was due. One
answer that is wrong or late fails the run. The load generator shares the machine, as it does in `make load`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from bench.backlogs import run_folder
from bench.case import Case, Figure
from bench.processes import tree_cpu_s
from bench.programs import ROOT, environment_with, running, wait_ready
from bench.progress import BenchError
from stack.ports import free_port
from streams.clock import SYSTEM_CLOCK

RATE = 1_000
WARM_UP_S = 20.0
SECONDS = 90.0
"""The load generator asks for a profile 10 s after a tag, and for minutes that ended 60 s ago."""
GOALS_MS = {"profiles": 20.0, "aggregates": 50.0}

Measured = dict[str, dict[str, float]]


def measure() -> Iterator[Figure]:
    """Run the job, warm it up, and put the load on it."""
    with run_folder() as home:
        ports = {name: str(free_port()) for name in ("TALLY_GATEWAY_PORT", "TALLY_WEB_PORT", "TALLY_SINKS_PORT")}
        settings = {"TALLY_STACK_HOME": str(home / "stack"), **ports}
        log = home / "job.log"
        with running("stack", "run", "--workers", "1", settings=settings, log=log) as job:
            wait_ready(job, log, lambda: "tally is ready" in log.read_text(errors="replace"))
            put_load(settings, home, seconds=WARM_UP_S)
            used_s, started_s = tree_cpu_s([job.pid]), SYSTEM_CLOCK.monotonic_s()
            measured = put_load(settings, home, seconds=SECONDS)
            used_s, wall_s = tree_cpu_s([job.pid]) - used_s, SYSTEM_CLOCK.monotonic_s() - started_s
    yield from figures(measured)
    yield Figure("whole job, Kafka and Postgres too", used_s / wall_s * 100, "% of a core")


def figures(measured: Measured) -> Iterator[Figure]:
    """Yield the percentiles of each kind of request."""
    for kind in ("tags", "profiles", "aggregates"):
        yield Figure(f"{kind}, p50", measured[kind]["p50_ms"], "ms")
        yield Figure(f"{kind}, p99", measured[kind]["p99_ms"], "ms", goal=GOALS_MS.get(kind))
        yield Figure(f"{kind}, longest", measured[kind]["max_ms"], "ms")


def put_load(settings: Mapping[str, str], home: Path, *, seconds: float) -> Measured:
    """Run the load generator and return what it measured.

    Raises:
        BenchError: an answer was wrong or late.
    """
    path = home / "load.json"
    command = [sys.executable, "-m", "load", "--rate", str(RATE), "--seconds", str(seconds), "--json", str(path)]
    environment, pipe = environment_with(settings), subprocess.PIPE
    answer = subprocess.run(command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True, check=False)
    if answer.returncode:
        raise BenchError(f"wrong or late answers: {answer.stdout[-600:]}{answer.stderr[-600:]}")
    measured: Measured = json.loads(path.read_text(encoding="utf-8"))
    return measured


CASE = Case("queries", "queries while 1,000 events a second come in", measure, runs=3)
