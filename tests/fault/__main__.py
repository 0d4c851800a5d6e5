"""Run the fault matrix: `python -m tests.fault [F1 …] [--seed n] [--long] [--keep]`; CASE, SEED, LONG do the same."""

from __future__ import annotations

import argparse
import logging
import os
import random
import re
import signal
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from types import FrameType

with warnings.catch_warnings():
    # kafka-python reads its own schemas by a deprecated call, once, while it is imported.
    warnings.simplefilter("ignore", DeprecationWarning)
    from stack.progress import say
    from tests.fault.case import Case, all_cases
    from tests.fault.report import last_line, table_of
    from tests.fault.runner import Result, run_case
    from tests.fault.small_disk import may_mount

SEED_MAX = 1_000_000
BAD_ARGUMENTS = 2
REQUIRE_VARIABLE = "REQUIRE_SERVICES"
"""Set to 1, as CI does, a case that is skipped for want of root is a failure; one that the machine forbids even root is not."""
NEEDS_ROOT = "NEEDS ROOT"
NEEDS_MOUNT = "NEEDS ROOT AND THE RIGHT TO MOUNT"
"""Why a case is skipped: nobody can give himself the right to mount where a container withholds it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for and return the exit status: 1 when a case was not exact."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.CRITICAL)  # the clients' complaints about what we do to them
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    cases = all_cases()
    wanted = options.cases or re.findall(r"\w+", os.environ.get("CASE", "").upper()) or list(cases)
    if unknown := [name for name in wanted if name not in cases]:
        say(f"no case {', '.join(unknown)}; there are {', '.join(cases)}")
        return BAD_ARGUMENTS
    seed = options.seed if options.seed is not None else random.randrange(SEED_MAX)
    say(f"seed {seed}: SEED={seed} replays the schedule{', long form' if options.long else ''}")
    runnable = [cases[name] for name in wanted if options.long or not cases[name].long_only]
    reasons = {case.id: reason for case in runnable if (reason := reason_to_skip(case))}
    results = _run_all([case for case in runnable if case.id not in reasons], seed=seed, options=options)
    for line in table_of(results):
        say(line)
    for result in results:  # said again: of a long log the end is read
        for problem in result.told():
            say(f"{result.case.id:>4} {problem}")
        if not result.is_exact:
            say(f"{result.case.id:>4} is replayed by CASE={result.case.id} SEED={seed}")
    for name, reason in reasons.items():
        say(f"SKIPPED {name}, {cases[name].title}: {reason}")
    say(last_line(results, skipped=len(reasons)))
    is_failed_by_skips = os.environ.get(REQUIRE_VARIABLE) == "1" and NEEDS_ROOT in reasons.values()
    return 1 if is_failed_by_skips or not all(result.is_exact for result in results) else 0


def reason_to_skip(case: Case) -> str:
    """Return what a case lacks here; empty when it can run."""
    if not case.needs_root:
        return ""
    if os.geteuid() != 0:
        return NEEDS_ROOT
    return "" if may_mount() else NEEDS_MOUNT


def _run_all(cases: Sequence[Case], *, seed: int, options: argparse.Namespace) -> list[Result]:
    results = []
    for case in cases:
        say(f"{case.id:>4} {case.title}")
        result = run_case(case, seed=seed, is_long=options.long, say=say, keep=options.keep)
        if result.shows_nothing:
            say(f"{case.id:>4} could not be run to its end, which says nothing of the counts: once more")
            result = replace(run_case(case, seed=seed, is_long=options.long, say=say, keep=options.keep), tries=2)
        results.append(result)
    return results


def _parser() -> argparse.ArgumentParser:
    environ = os.environ
    parser = argparse.ArgumentParser(prog="python -m tests.fault")
    parser.add_argument("cases", nargs="*", type=str.upper, help="ids, such as F1; all without any")
    parser.add_argument("--seed", type=int, default=int(environ["SEED"]) if environ.get("SEED") else None)
    parser.add_argument("--long", action="store_true", default=environ.get("LONG", "") not in ("", "0"))
    parser.add_argument("--keep", action="store_true", help="leave the folders of exact cases too")
    return parser


def _end(number: int, frame: FrameType | None) -> None:
    """Let every `finally` run."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
