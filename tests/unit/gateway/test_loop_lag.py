"""How late the loop is, as the gateway measures it."""

from __future__ import annotations

import asyncio
import time

from gateway.loop_lag import PROBE_S, LoopLag


async def test_blocked_loop_shows_in_the_lag() -> None:
    """P22: the gauge must see what a blocking call does, or its bound proves nothing."""
    lag = LoopLag()
    assert lag.seconds() == 0
    probing = asyncio.create_task(lag.run())
    await asyncio.sleep(PROBE_S / 2)
    time.sleep(4 * PROBE_S)
    while not lag.seconds():
        await asyncio.sleep(PROBE_S)
    assert lag.seconds() >= 3 * PROBE_S
    probing.cancel()
