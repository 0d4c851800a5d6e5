"""What a case of the fault matrix is: data, and two functions that make the fault and mend it."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tests.fault import faults
from tests.fault.checks import EXACT, Check
from tests.fault.stage import Stage, System

Act = Callable[[Stage], None]


def nothing(stage: Stage) -> None:
    """Leave the system as it is."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What is sent.

    Attributes:
        events: sent while the fault is there, at the least: sending goes on until `inject` and `heal` are done.
        events_long: the same for `LONG=1`.
        rate, rate_long: events a second, both ways together; open loop.
        http_share: of them by the gateway, the others straight into Kafka.
        before: sent as fast as possible, and counted, before the fault: it then meets buckets that come to their ends.
    """

    events: int = 5_000
    events_long: int = 30_000
    rate: int = 600
    rate_long: int = 1_000
    http_share: float = 0.3
    before: int = 12_000


@dataclass(frozen=True, kw_only=True)
class Case:
    """One fault, its workload and its checks. The order of a run:

    `prepare` (nothing runs) → start → `before` events counted → load → `inject` → load until enough is sent → `heal` → a
    little more load → drain → checks → `afterwards`, drain and checks once more. `inject` runs while the load does, on the
    main thread; an exception of it fails the case. `heal` is called once, whatever `inject` raised, so it must bear a fault
    that was never made.

    Attributes:
        id: F1, B2, C0; cases run in the order of their files.
        title: what the table says.
        inject: make the fault; returns when it is made, or when its schedule is over.
        heal: end it.
        prepare: make what must be there before the services start, such as a small file system; undo it by `stage.on_close`.
        afterwards: for a second comparison, such as of a system rebuilt from its changelogs.
        system: what runs.
        checks: all of them; `(*EXACT, mine)` adds one.
        allowed_errors: regular expressions of lines at ERROR that the fault explains, searched for in the whole line.
        recover_within_s: from heal until everything is counted.
        needs_root: mounts a disk of its own; skipped loudly for who may not.
        long_only: left out without `LONG=1`.
    """

    id: str
    title: str
    inject: Act
    heal: Act = nothing
    prepare: Act = nothing
    afterwards: Act | None = None
    workload: Workload = Workload()
    system: System = field(default_factory=System)
    checks: tuple[Check, ...] = EXACT
    allowed_errors: tuple[str, ...] = ()
    recover_within_s: float = 60.0
    needs_root: bool = False
    long_only: bool = False


def all_cases() -> Mapping[str, Case]:
    """Return every case of `tests/fault/faults`, by its id: one `CASE` a module, in the order of the modules' names.

    Raises:
        ValueError: two cases have one id.
    """
    cases: dict[str, Case] = {}
    for module in sorted(module.name for module in pkgutil.iter_modules(faults.__path__)):
        case: Case = importlib.import_module(f"{faults.__name__}.{module}").CASE
        if case.id in cases:
            raise ValueError(f"two cases are called {case.id!r}")
        cases[case.id] = case
    return cases
