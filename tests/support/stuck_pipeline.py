"""The product's topology that gets stuck: `STUCK=coordinator faust -A tests.support.stuck_pipeline worker`.

It sticks when the file that `STUCK_FILE` names appears, as it has in life: the coordinator's routine dies and nobody notices
(faust #523), or something blocks the loop.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from pipeline import app

__all__ = ["app"]

BLOCKED_S = 3_600.0
_file = Path(os.environ["STUCK_FILE"])


@app.timer(0.1)
async def get_stuck() -> None:
    """Stick in the way that `STUCK` names, once."""
    if _file.exists():
        _file.unlink()
        WAYS[os.environ["STUCK"]]()


def kill_coordinator() -> None:
    """End the routine that joins the group and keeps the place in it."""
    thread: Any = app.consumer._thread
    coordinator = thread._consumer._coordinator
    for task in (coordinator._coordination_task, coordinator._heartbeat_task):
        thread.thread_loop.call_soon_threadsafe(task.cancel)


def block_loop() -> None:
    """Never come back."""
    time.sleep(BLOCKED_S)


WAYS = {"coordinator": kill_coordinator, "loop": block_loop}
