"""Put a load on a running gateway: `python -m load`, and `python -m load demo` for traffic of now that never ends.

`run` compares every answer with what was sent, and tells the score of the Allezon task (load/score.py), so nobody else may send
events meanwhile; `--unchecked` and `demo` look at the shape of answers only. Exit code 1 when a request was not answered right
and in time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from time import perf_counter, process_time

import uvloop

from load.events import Mix
from load.measures import Measures
from load.report import as_json, live_line, table
from load.score import score_of
from load.start import NotReadyError, free_start_ms, wait_ready
from load.traffic import Plan, Traffic
from streams.clock import SYSTEM_CLOCK
from streams.errors import SettingsError
from streams.event_time import format_instant
from streams.settings import load_settings

DEFAULT_RATE = 1000.0
DEFAULT_DEMO_RATE = 100.0
DEFAULT_SECONDS = 60.0
LINE_INTERVAL_S = 1.0
DEMO_LINE_INTERVAL_S = 60.0
READY_TIMEOUT_S = 5.0
FAILED, BAD_SETTINGS, INTERRUPTED = 1, 2, 130


def main(arguments: list[str] | None = None) -> int:
    """Return the exit code."""
    options = _parser().parse_args(arguments)
    try:
        gateway = load_settings().gateway
    except SettingsError as error:
        sys.stderr.write(f"load: {error}\n")
        return BAD_SETTINGS
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(gateway.host, gateway.host)  # noqa: S104 - compared, not bound
    mix = Mix(skew=options.skew, late_share=options.late_share, late_s_max=options.late_s_max)
    is_demo = options.command == "demo"
    rate = options.rate or (DEFAULT_DEMO_RATE if is_demo else DEFAULT_RATE)
    seconds = options.seconds or (None if is_demo else DEFAULT_SECONDS)
    plan = Plan(
        host=host,
        port=gateway.port,
        rate=rate,
        seconds=seconds,
        seed=options.seed,
        mix=mix,
        is_checked=not (is_demo or options.unchecked),
    )
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            measures, elapsed_s = runner.run(demo(plan) if is_demo else load(plan))
    except NotReadyError as error:
        sys.stderr.write(f"load: {error}\n")
        return FAILED
    except KeyboardInterrupt:  # Before the first request; later a signal ends the run and shows its table.
        return INTERRUPTED
    report(plan, measures, elapsed_s, file=options.json)
    return FAILED if measures.error_count and not is_demo else 0


def report(plan: Plan, measures: Measures, elapsed_s: float, *, file: str | None) -> None:
    """Write the table, what the generator itself has used, and the score; the same as JSON into *file*."""
    cpu_s = process_time()
    score = score_of(measures, tags_planned=plan.tags or 0) if plan.is_checked else None
    lines = [table(measures, elapsed_s), f"the generator used {cpu_s:.1f} s of CPU, {cpu_s / elapsed_s:.1%} of a core"]
    if score is not None:
        lines.append(score.line())
    sys.stdout.write("\n" + "\n".join(lines) + "\n")
    if file:
        told = as_json(measures, elapsed_s, cpu_s=cpu_s, score=score)
        Path(file).write_text(json.dumps(told) + "\n", encoding="utf-8")


async def load(plan: Plan) -> tuple[Measures, float]:
    """Run a plan against a gateway that is ready, on minutes that hold no events yet.

    Raises:
        NotReadyError: it is not, after a while, or there are no such minutes.
    """
    await wait_ready(plan.url, timeout_s=READY_TIMEOUT_S)
    if plan.is_checked:
        span_ms = (plan.tags or 0) * plan.step_ms
        plan = replace(plan, start_ms=await free_start_ms(plan.url, plan.start_ms, span_ms=span_ms, mix=plan.mix))
    return await put_load(plan, line_interval_s=LINE_INTERVAL_S)


async def demo(plan: Plan) -> tuple[Measures, float]:
    """Wait until the gateway is ready, then send events whose time is the time they are sent at."""
    await wait_ready(plan.url, timeout_s=math.inf)
    now = replace(plan, start_ms=SYSTEM_CLOCK.now_ms(), step_ms=1000 / plan.rate)
    return await put_load(now, line_interval_s=DEMO_LINE_INTERVAL_S)


async def put_load(plan: Plan, *, line_interval_s: float) -> tuple[Measures, float]:
    """Run a plan until its end or a signal; return what was measured and for how long, seconds."""
    measures = Measures()
    traffic = Traffic(plan, measures)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, traffic.stop)
    started_s = perf_counter()
    beginning = f"seed {plan.seed}, {plan.rate:g} tags/s from {format_instant(plan.start_ms)} on"
    sys.stdout.write(f"{beginning}, to {plan.url}; p50/p99/p99.9\n")
    lines = asyncio.create_task(_write_lines(traffic, measures, line_interval_s))
    await traffic.run()
    lines.cancel()
    await asyncio.gather(lines, return_exceptions=True)
    measures.take_recent()
    return measures, perf_counter() - started_s


async def _write_lines(traffic: Traffic, measures: Measures, interval_s: float) -> None:
    started_s = last_s = perf_counter()
    while True:
        await asyncio.sleep(interval_s - (perf_counter() - started_s) % interval_s)
        now_s = perf_counter()
        recent = measures.take_recent()
        line = live_line(
            now_s - started_s, recent, interval_s=now_s - last_s, errors=measures.error_count, waiting=traffic.waiting
        )
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
        last_s = now_s


def _parser() -> argparse.ArgumentParser:
    """Return the parser; RATE, SECONDS and SEED of the environment are what `make load` passes."""
    parser = argparse.ArgumentParser(prog="python -m load", description=__doc__)
    parser.add_argument("command", nargs="?", choices=("run", "demo"), default="run")
    parser.add_argument("--rate", type=_positive, default=os.environ.get("RATE") or None, help="tags a second")
    parser.add_argument("--seconds", type=_positive, default=os.environ.get("SECONDS") or None, help="for how long")
    parser.add_argument("--seed", type=int, default=os.environ.get("SEED") or 1, help="of everything random")
    parser.add_argument("--skew", type=float, default=1.0, help="exponent of Zipf's law; 0: all equally likely")
    parser.add_argument("--late-share", type=float, default=0.0, help="share of events whose time lies back")
    parser.add_argument("--late-s-max", type=float, default=20.0, help="by how much at most, seconds")
    parser.add_argument("--unchecked", action="store_true", help="look at the shape of answers only")
    parser.add_argument("--json", metavar="FILE", help="write the result there too")
    return parser


def _positive(text: str) -> float:
    value = float(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


if __name__ == "__main__":
    sys.exit(main())
