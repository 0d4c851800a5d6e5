"""Wait for a condition instead of for a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

POLL_S = 0.05


def eventually(condition: Callable[[], T], *, within_s: float = 30.0, what: str = "the condition") -> T:
    """Return the first truthy result of *condition*; an exception of it counts as not yet.

    Raises:
        AssertionError: it did not come true in time; names *what* and the last result or error.
    """
    deadline_s = time.monotonic() + within_s
    last: object = None
    while time.monotonic() < deadline_s:
        try:
            result = condition()
            if result:
                return result
            last = result
        except Exception as error:  # noqa: BLE001 - the last one is told
            last = error
        time.sleep(POLL_S)
    raise AssertionError(f"{what} did not come true within {within_s} s; last: {last!r}")
