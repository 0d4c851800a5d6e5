"""The product's topology with faults in its fetching: `faust -A tests.support.faulty_pipeline worker`.

Faults strike a share of the hand-outs, by a seed: a batch is dropped after it was handed out, the fetch position jumps, the
partitions are sought at a bad moment, or one of them is rewound. Every one of them happened in life, by a race in Faust.
"""

from __future__ import annotations

import logging
import os
import random
from collections.abc import AsyncIterator
from typing import Any

from pipeline import app
from streams.runs import BATCH_TOPICS
from streams.transport import Consumer

log = logging.getLogger(__name__)
__all__ = ["app"]

SHARE = float(os.environ.get("FAULTS_SHARE", "0.1"))
JUMP_OFFSETS = 9000
_rng = random.Random(int(os.environ.get("FAULTS_SEED", "1")))
_getmany = Consumer.getmany


async def faulty_getmany(self: Any, timeout: float) -> AsyncIterator[Any]:
    """Yield what the real one yields, but for the faults."""
    async for tp, message in _getmany(self, timeout):
        if tp.topic in BATCH_TOPICS and _rng.random() < SHARE:
            fault = _rng.choice(FAULTS)
            log.warning("fault: %s at %s %d", fault.__name__, tp, message.offset)
            if await fault(self, tp):
                continue
        yield tp, message


async def drop_after_hand_out(consumer: Any, tp: Any) -> bool:
    """As Faust's `wait_first` does when the flow is suspended at the wrong moment."""
    return True


async def move_fetch_position(consumer: Any, tp: Any) -> bool:
    """As a drain that was not rewound does."""
    position = consumer._position.get(tp)
    if position is not None:
        await consumer.seek_wait({tp: max(0, position + _rng.randint(-JUMP_OFFSETS, JUMP_OFFSETS))})
    return False


async def seek_astray(consumer: Any, tp: Any) -> bool:
    """As a recovery does that completes twice."""
    await consumer.perform_seek()
    return False


async def rewind(consumer: Any, tp: Any) -> bool:
    """As an agent does that saw a hole."""
    await consumer.rewind(tp)
    return False


FAULTS = (drop_after_hand_out, move_fetch_position, seek_astray, rewind)
Consumer.getmany = faulty_getmany  # type: ignore[method-assign]
