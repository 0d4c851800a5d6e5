"""What a worker does between the signal and its stop."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from streams.app import App
from tests.support.scripted_consumer import an_app

LONG_S = 250.0


@pytest.fixture
def app(tmp_path: Path) -> App:
    """An app that owns recovered tables, as far as it is asked."""
    made = an_app(tmp_path)
    assert isinstance(made, App)
    made.tables.actives_ready = True
    made.rebalancing = False
    made._drain_s = LONG_S
    return made


async def test_worker_serves_on_until_a_second_signal(app: App) -> None:
    """The first only says that it stops: gateways look each second, and its peers ask it on."""
    draining = asyncio.create_task(app.drain())
    await asyncio.sleep(0)
    assert app.stops
    assert not draining.done()
    app.end_drain()
    await draining


async def test_worker_that_is_not_ready_does_not_wait(app: App) -> None:
    """Nobody asks it anything, so nobody needs time to look elsewhere."""
    app.rebalancing = True
    await app.drain()
    assert app.stops


async def test_drain_time_ends_it(app: App) -> None:
    """Without a second signal."""
    app._drain_s = 0.001
    await app.drain()
    assert app.stops
