"""How fast queries are answered while events come in: the whole job on this machine, and the load generator against it.

1,000 tags a second, 100 profile queries and 1 aggregates query, open loop, each latency from when the request was due. One
answer that is wrong or late fails the run. The load generator shares the machine, as it does in `make load`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from bench.backlogs import Backlog, run_folder, send
from bench.case import Case, Figure
from bench.clients import asking, told_by
from bench.processes import tree_cpu_s
from bench.programs import ROOT, environment_with, running, wait_ready
from bench.progress import BenchError
from bench.workers import RIGHT_WITHIN_S, wrong_minutes
from bench.workloads import MANY
from stack.home import StackHome
from stack.ports import free_port
from streams.clock import SYSTEM_CLOCK
from tests.support.eventually import eventually

RATE = 1_000
WARM_UP_S = 20.0
SECONDS = 90.0
"""The load generator asks for a profile 10 s after a tag, and for minutes that ended 60 s ago."""
BEFORE = replace(MANY, step_ms=1.0).sized(660_000)
"""Eleven minutes of the spec's traffic."""
AGGREGATES_PER_S = 1.0
GOAL_PROFILE_MS = 20.0
GOAL_AGGREGATES_MS = 50.0

Measured = dict[str, dict[str, float]]


def measure() -> Iterator[Figure]:
    """Run the job, warm it up, and put the load on it."""
    with run_folder() as home:
        ports = {name: str(free_port()) for name in ("TALLY_GATEWAY_PORT", "TALLY_WEB_PORT", "TALLY_SINKS_PORT")}
        settings = {"TALLY_STACK_HOME": str(home / "stack"), **ports}
        log = home / "job.log"
        with running("stack", "run", "--workers", "1", settings=settings, log=log) as job:
            wait_ready(job, log, lambda: "tally is ready" in log.read_text(errors="replace"))
            gateway = f"http://127.0.0.1:{ports['TALLY_GATEWAY_PORT']}"
            backlog = send(BEFORE, StackHome(home / "stack").read_environment()["TALLY_KAFKA_SERVERS"], home)
            counted = partial(_is_counted, gateway, backlog)
            eventually(counted, within_s=RIGHT_WITHIN_S, what="the ten minutes before")
            put_load(settings, home, seconds=WARM_UP_S)
            used_s, started_s = tree_cpu_s([job.pid]), SYSTEM_CLOCK.monotonic_s()
            with asking(gateway, backlog, profiles_per_s=0, aggregates_per_s=AGGREGATES_PER_S) as client:
                measured = put_load(settings, home, seconds=SECONDS)
                measured["aggregates of 10 full minutes"] = told_by(client)["aggregates"]
            used_s, wall_s = tree_cpu_s([job.pid]) - used_s, SYSTEM_CLOCK.monotonic_s() - started_s
    yield from figures(measured)
    yield Figure("whole job, Kafka and Postgres too", used_s / wall_s * 100, "% of a core")


def _is_counted(url: str, backlog: Backlog) -> bool:
    return not wrong_minutes(url, backlog.totals)


def figures(measured: Measured) -> Iterator[Figure]:
    """Yield the percentiles of each kind of request."""
    goals_ms = {"profiles": GOAL_PROFILE_MS, "aggregates of 10 full minutes": GOAL_AGGREGATES_MS}
    for kind in ("tags", "profiles", "aggregates", "aggregates of 10 full minutes"):
        yield Figure(f"{kind}, p50", measured[kind]["p50_ms"], "ms")
        yield Figure(f"{kind}, p99", measured[kind]["p99_ms"], "ms", goal=goals_ms.get(kind))
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


CASE = Case("queries", "queries while 1,000 events a second come in", measure)
