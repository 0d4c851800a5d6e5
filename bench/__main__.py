"""Run benchmarks, each run in a process of its own: `python -m bench [NAMES…] [--runs N] [--peers] [--list]`.

`make bench` passes CASE=, RUNS=, PEERS= and SCALE=. All cases take their turns, run after run, so that a machine that changes
meanwhile changes for all of them. The table goes to standard output and to bench/results/, with JSON and a picture.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path
from types import FrameType
from typing import Any

from bench.case import Case, Figure
from bench.cases import all_cases
from bench.console import tell
from bench.machine import facts, load, now, told
from bench.plot import bars_of, svg
from bench.results import CaseResult, as_json, from_json, ratios, show, summarize, table
from bench.workloads import scale
from stack.processes import ROOT
from stack.service import die_with_parent

RESULTS = ROOT / "bench" / "results"
LATEST = "latest.json"
PICTURE = ROOT / "docs" / "images" / "bench.svg"
STOP_TIMEOUT_S = 60.0
BUSY_LOAD = 0.5
FAILED, BAD_USAGE = 1, 2


def main(arguments: list[str] | None = None) -> int:
    """Return the exit code: 1 when a run showed nothing."""
    options = _parser().parse_args(arguments)
    cases = chosen(list(all_cases().values()), options.names, peers=options.peers)
    if not cases:
        tell(f"no case is called {' or '.join(options.names)}; there are: {', '.join(all_cases())}")
        return BAD_USAGE
    if options.list:
        sys.stdout.writelines(f"{case.name:22} {case.title}\n" for case in cases)
        return 0
    signal.signal(signal.SIGTERM, _end)
    results = run_all(cases, runs=options.runs)
    sys.stdout.write("\n".join((table(results), *ratios(results))) + "\n")
    if scale() == 1:
        write(results)
    else:
        tell(f"SCALE is {scale()}: a trial, nothing written")
    return FAILED if any(result.failed for result in results) else 0


def chosen(cases: Sequence[Case], names: Sequence[str], *, peers: bool) -> list[Case]:
    """Return the cases that *names* (patterns as of file names) name, or all but peers, unless asked for, and long ones."""
    if names:
        return [case for case in cases if any(fnmatch(case.name, name) for name in names)]
    return [case for case in cases if (peers or not case.is_peer) and not case.is_long]


def run_all(cases: Sequence[Case], *, runs: int | None) -> list[CaseResult]:
    """Run every case its number of times, in turns."""
    wanted = {case.name: runs or case.runs for case in cases}
    found: defaultdict[str, list[list[Figure]]] = defaultdict(list)
    failed: defaultdict[str, int] = defaultdict(int)
    loads: defaultdict[str, list[float]] = defaultdict(list)
    for turn in range(1, max(wanted.values()) + 1):
        for case in (case for case in cases if turn <= wanted[case.name]):
            loads[case.name].append(load())
            tell(f"{case.name} {turn}/{wanted[case.name]}: {case.title}{_busy(loads[case.name][-1])}")
            figures = run_once(case)
            if figures is None:
                failed[case.name] += 1
            else:
                found[case.name].append(figures)
                tell("  " + "; ".join(f"{figure.name} {show(figure.value)} {figure.unit}" for figure in figures))
    return [summarize(case, found[case.name], failed=failed[case.name], loads=loads[case.name]) for case in cases]


def run_once(case: Case) -> list[Figure] | None:
    """Run a case in a process of its own; None when it showed nothing. It says itself why."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.one", case.name],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=die_with_parent(signal.SIGTERM),  # noqa: PLW1509 - one C call, safe after a fork
    )
    try:
        output, _ = process.communicate(timeout=case.timeout_s)
    except subprocess.TimeoutExpired:
        tell(f"  {case.name}: not done after {case.timeout_s:.0f} s")
        return None
    finally:
        _stop(process)
    if process.returncode != 0:
        tell(f"  {case.name}: ended with {process.returncode}")
        return None
    return [Figure(**figure) for figure in json.loads(output.splitlines()[-1])]


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a run in order, then whatever of its group is left."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _busy(load_before: float) -> str:
    return f" (load {load_before:.1f}: others use the machine too)" if load_before > BUSY_LOAD else ""


def write(results: Sequence[CaseResult], *, folder: Path = RESULTS, picture: Path = PICTURE) -> None:
    """Write table, JSON and picture; cases that were not run keep what the files say of them."""
    entries = as_json(results, facts())
    today, latest = folder / f"{now():%Y-%m-%d}.json", folder / LATEST
    folder.mkdir(parents=True, exist_ok=True)
    for path in (today, latest):
        path.write_text(json.dumps(_read(path) | entries, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    entries = _read(today)
    of_today = [from_json(name, entry) for name, entry in entries.items()]
    page = (f"# {now():%Y-%m-%d}", _note(entries), table(of_today), "\n".join(f"- {line}" for line in ratios(of_today)))
    today.with_suffix(".md").write_text("\n\n".join(part for part in page if part) + "\n", encoding="utf-8")
    shown = {name: entry for name, entry in _read(latest).items() if bars_of([from_json(name, entry)])}
    if shown:
        picture.parent.mkdir(parents=True, exist_ok=True)
        bars = bars_of(from_json(name, entry) for name, entry in shown.items())
        picture.write_text(svg(bars, note=_note(shown)), encoding="utf-8")
    tell(f"written to {folder}: {today.name}, {today.with_suffix('.md').name}, {latest.name}; and {picture}")


def _read(path: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def _note(entries: Mapping[str, Mapping[str, Any]]) -> str:
    return told([entry["facts"] for entry in entries.values()])


def _parser() -> argparse.ArgumentParser:
    environ = os.environ
    parser = argparse.ArgumentParser(prog="python -m bench", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", default=environ.get("CASE", "").split(), help="cases, or patterns; all without any")
    parser.add_argument(
        "--runs", type=int, default=int(environ.get("RUNS") or 0) or None, help="of each case, else its own number"
    )
    parser.add_argument("--peers", action="store_true", default=environ.get("PEERS", "") not in ("", "0"))
    parser.add_argument("--list", action="store_true", help="name the cases and end")
    return parser


def _end(number: int, frame: FrameType | None) -> None:
    """Let every `finally` run."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
