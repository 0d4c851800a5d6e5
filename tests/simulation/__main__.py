"""Simulate without bound: `make simulate`. Prints a line now and then, and of the first failure its seed and its replay.

Environment: `SEED` the first seed (default: the clock's), `COUNT` how many schedules (default: no bound), `STEPS` how many
steps with faults at most, `PLANT` the name of a planted fault, or
`submissions_counted` for the second stream. With `COUNT=1` everything that goes wrong is told.
"""

from __future__ import annotations

import os
import sys
import time

from tests.simulation.planted import CONTROLS, PLANTS, Plant
from tests.simulation.search import Found, fewest_steps, replay, search

PROGRESS_S = 10.0


class Progress:
    """Says how many schedules a minute are run."""

    def __init__(self) -> None:
        self.started_s = self.told_s = time.monotonic()
        self.started_cpu_s = time.process_time()

    def tell(self, schedules: int, steps: int) -> None:
        """Print a line, if the last one is long enough ago."""
        now_s = time.monotonic()
        if now_s - self.told_s >= PROGRESS_S:
            self.told_s = now_s
            rate = round(60 * schedules / (now_s - self.started_s))
            cpu_rate = round(60 * schedules / (time.process_time() - self.started_cpu_s))
            say(
                f"{schedules} schedules, {steps} steps, every one exact; "
                f"{rate} schedules a minute, {cpu_rate} a minute of one core's time"
            )


def say(line: str) -> None:
    """Write a line for whoever waits."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> int:
    """Run what the environment asks for; return 1 when a schedule failed."""
    seed = int(os.environ.get("SEED") or time.time_ns() // 1_000_000_000)
    count = int(os.environ.get("COUNT") or 0)
    steps = int(os.environ["STEPS"]) if os.environ.get("STEPS") else None
    name = os.environ.get("PLANT", "")
    plant = (PLANTS | CONTROLS)[name]
    if count == 1:
        problem = replay(seed, steps=steps, trace=say, plant=plant)
        say(problem or f"seed {seed} is exact")
        return int(problem is not None)
    say(f"simulating from seed {seed} on")
    found = search(seed, is_over=lambda schedules: 0 < count <= schedules, plant=plant, told=Progress().tell)
    if found is None:
        say(f"{count} schedules, every one exact")
        return 0
    tell_failure(found, plant, name)
    return 1


def tell_failure(found: Found, plant: Plant, name: str) -> None:
    """Print what failed and the command that shows it in the fewest steps."""
    say(f"seed {found.seed} failed, after {found.schedules} schedules and {found.steps} steps: {found.problem}")
    fewest = fewest_steps(found.seed, plant=plant)
    planted = f" PLANT={name}" if name else ""
    say(f"replay it with: make simulate SEED={found.seed} COUNT=1 STEPS={fewest}{planted}")


if __name__ == "__main__":
    sys.exit(main())
