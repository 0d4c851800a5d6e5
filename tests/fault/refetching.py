"""The product's topology, fetching with faults while a file arms them: `faust -A tests.fault.refetching worker`."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from streams.transport import Consumer
from tests.fault import FAIL_POINT_VARIABLE
from tests.support import faulty_pipeline
from tests.support.faulty_pipeline import app

__all__ = ["app"]

_armed = Path(os.environ[FAIL_POINT_VARIABLE])
_whole, _faulty = faulty_pipeline._getmany, faulty_pipeline.faulty_getmany


async def getmany(self: Any, timeout: float) -> AsyncIterator[Any]:
    """Drop, rewind and seek astray as long as it is armed: the last batches of a case must come, no later one tells of them."""
    async for fetched in (_faulty if _armed.exists() else _whole)(self, timeout):
        yield fetched


Consumer.getmany = getmany  # type: ignore[method-assign]
