"""Run schedule after schedule, until one fails or time is over; say which, and how little of it is needed."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.simulation.planted import Plant, nothing_planted
from tests.simulation.small import small_product
from tests.simulation.world import ScheduleFailedError, World

COLLECT_EVERY = 400
"""Schedules between two collections of garbage: what a killed process leaves are circles."""


@dataclass(slots=True)
class Found:
    """A schedule that failed.

    Attributes:
        schedules: how many were run until then, it included.
        steps: how many steps they had together.
    """

    seed: int
    problem: str
    schedules: int
    steps: int


@contextmanager
def simulated(plant: Plant = nothing_planted) -> Iterator[dict[str, Any]]:
    """Make the product small and silent, and collect garbage only where `search` says so."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        with small_product(), plant() as arguments:
            yield arguments
    finally:
        gc.enable()
        gc.unfreeze()
        logging.disable(level)


def search(
    first_seed: int,
    *,
    is_over: Callable[[int], bool],
    plant: Plant = nothing_planted,
    told: Callable[[int, int], None] | None = None,
) -> Found | None:
    """Run schedules from a seed on; return the first that fails, None when *is_over* says so of their number.

    Args:
        told: called with the number of schedules and of steps now and then.
    """
    schedules = steps = 0
    with simulated(plant) as arguments:
        while not is_over(schedules):
            seed = first_seed + schedules
            world = World(seed, **arguments)
            schedules += 1
            try:
                world.run()
            except ScheduleFailedError as error:
                return Found(seed, str(error), schedules, steps + world.steps)
            steps += world.steps
            if schedules % COLLECT_EVERY == 0:
                gc.collect()
                if told is not None:
                    told(schedules, steps)
    return None


def fewest_steps(seed: int, *, plant: Plant = nothing_planted) -> int | None:
    """Return after how few steps with faults the schedule of a seed already fails; None if it does not fail."""
    with simulated(plant) as arguments:
        steps_max = World(seed, **arguments).steps_max
        for steps in range(steps_max + 1):
            try:
                World(seed, steps=steps, **arguments).run()
            except ScheduleFailedError:
                return steps
    return None


def replay(seed: int, *, steps: int | None, trace: Callable[[str], None], plant: Plant = nothing_planted) -> str | None:
    """Run one schedule and tell everything that goes wrong in it; return what failed, None if nothing did."""
    with simulated(plant) as arguments:
        world = World(seed, steps=steps, **arguments)
        world.trace = trace
        try:
            world.run()
        except ScheduleFailedError as error:
            return str(error)
    return None
