"""Run one case once and write its figures to standard output, a line of JSON: `python -m bench.one NAME`."""

from __future__ import annotations

import json
import logging
import signal
import sys
from dataclasses import asdict
from types import FrameType

from bench.cases import all_cases
from bench.console import tell
from bench.progress import BenchError
from streams.errors import TallyError


def main(name: str) -> int:
    """Return the exit code; 1 when the run shows nothing, because its result was wrong or it did not get there."""
    logging.basicConfig(level=logging.WARNING)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    try:
        figures = list(all_cases()[name].measure())
    except (BenchError, TallyError, AssertionError, OSError) as error:
        tell(f"  {name}: {type(error).__name__}: {error}")
        return 1
    sys.stdout.write(json.dumps([asdict(figure) for figure in figures]) + "\n")
    return 0


def _end(number: int, frame: FrameType | None) -> None:
    """Let every `finally` run, once: a second signal must not stop the cleaning up."""
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signal_number, signal.SIG_IGN)
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
