"""What a benchmark is: a name, a function that measures once, and the figures that it returns."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

USUAL_RUNS = 5
RUN_TIMEOUT_S = 1_800.0


@dataclass(frozen=True)
class Figure:
    """One measured value of one run.

    Attributes:
        unit: as printed behind the value: "µs CPU/event", "events/s", "MiB", "ms".
        goal: the value to reach, in the same unit; None where nothing is promised.
        more_is_better: a rate rather than a cost: the goal is a least, not a most.
    """

    name: str
    value: float
    unit: str
    goal: float | None = None
    more_is_better: bool = False


@dataclass(frozen=True)
class Case:
    """One benchmark; each of its runs happens in a process of its own.

    Attributes:
        name: what the command line calls it.
        title: a line for people.
        measure: runs it once, with its own warm-up, and checks the result: a wrong one raises.
        runs: how often, unless the command line says otherwise.
        is_peer: measures somebody else's program; only run when peers are asked for.
        is_long: takes so long, or so much disk, that it is only run when named.
        timeout_s: of one run; past it the run is ended, and shows nothing.
    """

    name: str
    title: str
    measure: Callable[[], Iterable[Figure]]
    runs: int = USUAL_RUNS
    is_peer: bool = False
    is_long: bool = False
    timeout_s: float = RUN_TIMEOUT_S
