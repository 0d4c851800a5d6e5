"""What 50 open dashboards do to the events that come in: the whole job, 500 tags a second, open loop.

Three times the same load on the same job: without anybody looking, with 50 live streams, and with 50 tabs that also ask what
their panels ask, 20 questions a second. Latency counts from when a tag was due; every tag must be acknowledged.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

from bench.backlogs import run_folder
from bench.case import Case, Figure
from bench.cases.gateway import TAGS, run_load
from bench.processes import tree_cpu_s
from bench.programs import running, wait_ready
from bench.tabs import Tabs, open_tabs
from stack.ports import free_port

RATE = 500.0
TABS = 50
WARM_UP_S = 15.0
SECONDS = 30.0
EVENTS_MIN = 20
"""Of each live stream in that time: one a second is usual, and a machine that is busy leaves some out."""
GOAL_TAG_MS = 200.0
"""The specification's, of every tag."""


def measure() -> Iterator[Figure]:
    """Run the job, warm it up, and put the load on it three times."""
    with run_folder() as home:
        ports = {name: str(free_port()) for name in ("TALLY_GATEWAY_PORT", "TALLY_WEB_PORT", "TALLY_SINKS_PORT")}
        log = home / "job.log"
        with running(
            "stack", "run", "--workers", "1", settings={"TALLY_STACK_HOME": str(home / "stack"), **ports}, log=log
        ) as job:
            wait_ready(job, log, lambda: "tally is ready" in log.read_text(errors="replace"))
            port = int(ports["TALLY_GATEWAY_PORT"])
            url = f"http://127.0.0.1:{port}"
            run_load(TAGS.module, {"port": port, "seconds": WARM_UP_S, "rate": RATE})
            looks: dict[str, AbstractContextManager[Tabs | None]] = {
                "nobody looks": nullcontext(),
                f"{TABS} live streams": open_tabs(url, TABS, asks=False),
                f"{TABS} tabs that ask": open_tabs(url, TABS, asks=True),
            }
            for name, look in looks.items():
                with look as tabs:
                    yield from figures(name, port, job.pid, tabs)


def figures(name: str, port: int, pid: int, tabs: Tabs | None) -> Iterator[Figure]:
    """Put the load on the job while somebody looks, and yield what it measured.

    Raises:
        BenchError: an event was not acknowledged, or a tab was not served.
    """
    before_s = tree_cpu_s([pid])
    loaded = run_load(TAGS.module, {"port": port, "seconds": SECONDS, "rate": RATE})
    used_s = tree_cpu_s([pid]) - before_s
    yield Figure(f"tags, {name}, p50", loaded["p50_ms"], "ms")
    yield Figure(f"tags, {name}, p99", loaded["p99_ms"], "ms", goal=GOAL_TAG_MS)
    yield Figure(f"tags, {name}, longest", loaded["max_ms"], "ms")
    yield Figure(f"whole job, {name}", used_s / loaded["wall_s"] * 100, "% of a core")
    if tabs is not None:
        tabs.check(events_min=EVENTS_MIN)
        if tabs.latencies.count:
            yield Figure(f"questions of {name}, p99", tabs.latencies.quantile_s(0.99) * 1000, "ms")


CASE = Case("tabs", "what 50 open dashboards do to events that come in", measure)
