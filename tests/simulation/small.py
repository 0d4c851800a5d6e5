"""Make the product small: buckets of a few offsets, databases of dicts, an end of the process that can be played."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NoReturn
from unittest.mock import patch

from tests.simulation.loop import ProcessEndedError
from tests.simulation.stores import MemoryWrite, no_options

BUCKET = 4
KNOWS_BUCKETS = (
    "agents.protocol", "agents.beginning", "tables.blocks", "tables.duplicates", "tables.partitions", "streams.transport",
    "tests.simulation.world",
)  # fmt: skip
"""Every module that imports `BUCKET_OFFSETS` by name."""


def end_process(error: BaseException) -> NoReturn:
    """End the simulated process whose loop is running."""
    loop: Any = asyncio.get_running_loop()
    loop.process.end(error)
    raise ProcessEndedError


class NoJitter:
    """Stand for `random` in the sinks: a schedule's chance comes from its seed only."""

    @staticmethod
    def uniform(low: float, high: float) -> float:
        return high


@contextmanager
def small_product() -> Iterator[None]:
    """Change what cannot be passed in, until the end of the block."""
    with ExitStack() as stack:

        def put(module: str, **attributes: Any) -> None:
            stack.enter_context(patch.multiple(importlib.import_module(module), **attributes))

        for module in KNOWS_BUCKETS:
            put(module, BUCKET_OFFSETS=BUCKET)
        put("agents.protocol", WriteBatch=MemoryWrite)
        put("tables.store", WriteBatch=MemoryWrite, without_log=no_options)
        put("sinks.loop", random=NoJitter)
        put("agents.guard", end_process=end_process)
        yield
