"""Run `bench.asking`, the client that asks at fixed rates, beside what is measured."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bench.backlogs import Backlog
from bench.progress import BenchError
from stack.processes import ROOT

LAST_ANSWERS_WITHIN_S = 90.0


@contextmanager
def asking(url: str, backlog: Backlog, *, profiles_per_s: float, aggregates_per_s: float) -> Iterator[subprocess.Popen[str]]:
    """Ask for users of *backlog* and for its first ten minutes, until `told_by`."""
    first_minute = min(minute for minute, _ in backlog.totals)
    rates = (str(profiles_per_s), str(aggregates_per_s))
    command = [sys.executable, "-m", "bench.asking", url, str(first_minute), *rates]
    client = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield client
    finally:
        client.kill()
        client.communicate()


def told_by(client: subprocess.Popen[str]) -> dict[str, dict[str, float]]:
    """End the asking and return count and latencies (ms) of each kind of question.

    Raises:
        BenchError: an answer was wrong, or there was none.
    """
    output, _ = client.communicate(timeout=LAST_ANSWERS_WITHIN_S)
    told: dict[str, dict[str, Any]] = json.loads(output)
    if any(asked["wrong"] or not asked["count"] for asked in told.values()):
        raise BenchError(f"wrong answers, or none: {told}")
    return told
