"""A worker of the tests' own, on the broker that each file makes as it wants it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.counting import Broker, InProcess


@pytest.fixture
async def worker(broker: Broker, tmp_path: Path) -> AsyncIterator[InProcess]:
    """A worker that is recovered and sought; its stores are let go of afterwards."""
    worker = InProcess(broker, tmp_path)
    await worker.recover()
    yield worker
    worker.close()
