"""The benchmarks: each module here has a `CASE`, or several as `CASES`."""

from __future__ import annotations

import importlib
import pkgutil

from bench.case import Case


def all_cases() -> dict[str, Case]:
    """Return every case by its name, in the order of the modules' names."""
    found: dict[str, Case] = {}
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda module: module.name):
        loaded = importlib.import_module(f"{__name__}.{module.name}")
        for case in getattr(loaded, "CASES", None) or (loaded.CASE,):
            if case.name in found:
                raise ValueError(f"two cases are called {case.name!r}")
            found[case.name] = case
    return found
