"""An epoch begins with a commit: who is no owner any more must not count on what a later owner has committed."""

from __future__ import annotations

from functools import partial

import pytest

from streams.topics import BUCKET_OFFSETS
from tests.support.builders import a_record
from tests.support.counting import Broker, InProcess
from tests.support.scripted_consumer import SOURCE


@pytest.fixture
def broker() -> Broker:
    broker = Broker()
    broker.source.update((offset, a_record(cookie=f"user-{offset % 9}")) for offset in range(2 * BUCKET_OFFSETS))
    return broker


async def test_who_may_not_commit_counts_nothing(broker: Broker, worker: InProcess) -> None:
    """Paused between its recovery and its seek, it finds what a later owner has committed, and has none of its rows."""
    broker.committed = BUCKET_OFFSETS
    worker.is_owner = False
    await worker.rewind(SOURCE)
    await worker.deliver(2 * BUCKET_OFFSETS)
    assert not any(broker.topics.values()) and worker.acknowledged == []
    assert (worker.position, broker.committed) == (BUCKET_OFFSETS, BUCKET_OFFSETS)


async def test_a_partition_that_is_given_away_during_the_first_commit_is_not_begun(broker: Broker, worker: InProcess) -> None:
    """What its seek had found was of the time before."""
    worker.on_commit = partial(worker.rewind, SOURCE)
    await worker.deliver(100)
    assert not any(broker.topics.values()) and worker.state(0).epoch == -1
    worker.on_commit = None
    await worker.deliver(100)
    await worker.finish()
    assert worker.acknowledged == [99]
