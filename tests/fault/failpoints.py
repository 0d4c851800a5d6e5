"""The product's topology with points to fail at: `faust -A tests.fault.failpoints worker`.

A file arms one point by its name. The worker that gets there first takes the file away and fails there, once.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from pathlib import Path
from typing import Any

from agents.protocol import CountingProtocol
from pipeline import app
from tests.fault import FAIL_POINT_VARIABLE

log = logging.getLogger(__name__)
__all__ = ["app"]

SLOW_S = 600.0
"""A batch that is this slow never ends before its worker is killed."""
_armed = Path(os.environ[FAIL_POINT_VARIABLE])
_send, _store_blocks, _store_rows = CountingProtocol._send, CountingProtocol._store_blocks, CountingProtocol._store_rows
_finish = CountingProtocol._finish


def claims(point: str) -> bool:
    """Say whether *point* is armed, and this worker the first to reach it."""
    try:
        if _armed.read_text(encoding="utf-8") != point:
            return False
        _armed.rename(_armed.with_suffix(".reached"))
    except FileNotFoundError:
        return False
    log.warning("fail point %s", point)
    return True


def die_at(point: str) -> None:
    """Die as by a power cut, where the point is armed."""
    if claims(point):
        os.kill(os.getpid(), signal.SIGKILL)


async def send(self: Any, state: Any, batch: Any) -> None:
    """Point `sent`: the changelog has been sent, and nobody waits for its acknowledgment."""
    await _send(self, state, batch)
    if batch.event is not None:
        die_at("sent")


def store_blocks(self: Any, partition: int, batch: Any, acknowledged: Any) -> None:
    """Point `blocks_stored`: one of the two tables is written."""
    _store_blocks(self, partition, batch, acknowledged)
    if batch.event is not None:
        die_at("blocks_stored")


async def store_rows(self: Any, partition: int, batch: Any, acknowledged: Any) -> None:
    """Point `stored`: both tables are written, and the batch is not acknowledged, let alone committed."""
    await _store_rows(self, partition, batch, acknowledged)
    if batch.event is not None:
        die_at("stored")


async def finish(self: Any, state: Any, batch: Any, sent: Any, before: Any) -> None:
    """Point `slow`: one batch takes for ever, while those of other partitions go on."""
    if batch.event is not None and claims("slow"):
        await asyncio.sleep(SLOW_S)
    await _finish(self, state, batch, sent, before)


CountingProtocol._send = send  # type: ignore[method-assign]
CountingProtocol._store_blocks = store_blocks  # type: ignore[method-assign]
CountingProtocol._store_rows = store_rows  # type: ignore[method-assign]
CountingProtocol._finish = finish  # type: ignore[method-assign]
