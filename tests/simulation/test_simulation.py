"""Simulated schedules of faults: the product counts exactly in each, and a fault that is planted into it is found."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.simulation.planted import CONTROLS, PLANTS
from tests.simulation.search import fewest_steps, replay, search, simulated
from tests.simulation.world import World

ROOT = Path(__file__).parents[2]
SCHEDULES = 3_000
BUDGET_S = 25.0
"""A slow machine runs fewer schedules; `make simulate` runs them without bound."""
PLANT_SCHEDULES_MAX = 20_000
FIRST_SEEDS = {"first_start_not_committed": 11_000, "commit_of_a_later_owner_trusted": 5_500}
"""Where the search for the rare ones begins, shortly before what it finds from 0 on: that would take a minute each."""


@pytest.mark.parametrize("name", ["", "submissions_counted"], ids=["tags", "submissions"])
def test_every_schedule_is_counted_exactly(name: str) -> None:
    """Crashes, pauses, lost fetches, rebalances, wiped disks, compaction: whatever a seed does, each event counts once.

    P4: and of submissions that are sent again the same one, wherever it is read again.
    """
    first_seed = int(os.environ.get("SEED") or time.time_ns() // 1_000_000_000)
    plant = CONTROLS[name]
    until_s = time.monotonic() + BUDGET_S
    found = search(first_seed, is_over=lambda schedules: schedules == SCHEDULES or time.monotonic() > until_s, plant=plant)
    if found is not None:
        fewest, planted = fewest_steps(found.seed, plant=plant), f" PLANT={name}" if name else ""
        pytest.fail(f"{found.problem}\nreplay it with: make simulate SEED={found.seed} COUNT=1 STEPS={fewest}{planted}")


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_fault_is_found(name: str) -> None:
    """A simulation that finds nothing proves nothing."""
    found = search(FIRST_SEEDS.get(name, 0), is_over=lambda schedules: schedules == PLANT_SCHEDULES_MAX, plant=PLANTS[name])
    assert found is not None


def test_a_seed_tells_the_same_story_in_another_process() -> None:
    """Else a failure could not be looked at; the order of sets of names differs from process to process."""
    stories = []
    for hash_seed in ("1", "2"):
        environ = os.environ | {"SEED": "12", "COUNT": "1", "PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-m", "tests.simulation"]
        stories.append(subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=True).stdout)
    assert stories[0] == stories[1]
    assert "generation" in stories[0]


def test_a_failure_is_replayed_by_its_seed_and_its_fewest_steps() -> None:
    """What `make simulate` prints must show the failure, and one step less must not."""
    plant = PLANTS["commit_before_acknowledgments"]
    found = search(0, is_over=lambda schedules: schedules == PLANT_SCHEDULES_MAX, plant=plant)
    assert found is not None
    steps = fewest_steps(found.seed, plant=plant)
    assert steps is not None
    assert replay(found.seed, steps=steps, trace=lambda line: None, plant=plant) is not None
    assert steps == 0 or replay(found.seed, steps=steps - 1, trace=lambda line: None, plant=plant) is None


def test_schedules_hold_the_faults_that_they_are_said_to_hold() -> None:
    """A fault that never happens is not survived."""
    told: list[str] = []
    with simulated() as arguments:
        for seed in range(200):
            world = World(seed, **arguments)
            world.trace = told.append
            world.run()
    for fault in ("kill worker", "pause worker", "give up worker", "wake worker", "wipe worker", "stray seek", "compact",
                  "sink", "generation 3", "begins at"):  # fmt: skip
        assert any(fault in line for line in told), fault
