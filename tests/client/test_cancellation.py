"""A canceled task, a loop that ends, a second loop: the asyncio client stays sound."""

from __future__ import annotations

import asyncio
import random
import threading
from pathlib import Path
from typing import Any

import pytest
from tally_client import AsyncAnalyticsClient, DeliveryError, Options
from tally_client.spool import Claim, Spool

from tests.client.fast_clock import FastClock
from tests.client.recording import Recorder


def a_client(recorder: Recorder, clock: FastClock, **options: Any) -> AsyncAnalyticsClient:
    return AsyncAnalyticsClient(recorder.url, "a-key", Options(clock=clock, **options))


async def canceled(task: asyncio.Task[Any]) -> bool:
    """Cancel a task and return whether it ended by that."""
    task.cancel()
    return isinstance((await asyncio.gather(task, return_exceptions=True))[0], asyncio.CancelledError)


async def test_a_canceled_flush_leaves_the_rest_to_others(recorder: Recorder, clock: FastClock) -> None:
    """The events go on their way, and another flush sees their end."""
    recorder.gate.clear()
    async with a_client(recorder, clock) as client:
        event_id = await client.capture("clicked", "user-1")
        flushing = asyncio.create_task(client.flush(1_000_000.0))
        while not recorder.seen:
            await asyncio.sleep(0.001)
        assert await canceled(flushing)
        recorder.gate.set()
        assert await client.flush(1_000.0)
        assert recorder.kept == {event_id}


async def test_a_capture_that_waits_for_room_is_canceled_whole(recorder: Recorder, clock: FastClock) -> None:
    """Its event was not taken; the next is."""
    recorder.gate.clear()
    async with a_client(recorder, clock, queue_events_max=1, when_full="block", block_timeout_s=1_000_000.0) as client:
        first = await client.capture("clicked", "user-1")
        waiting = asyncio.create_task(client.capture("clicked", "user-2"))
        while not recorder.seen:
            await asyncio.sleep(0.001)
        assert await canceled(waiting)
        recorder.gate.set()
        third = await client.capture("clicked", "user-3")
        assert await client.flush(1_000.0)
        assert recorder.kept == {first, third}
        assert client.stats() == (2, 2, {}, 0)


async def test_closing_ends_a_sync_capture_that_waits_for_its_next_attempt(recorder: Recorder) -> None:
    """As with threads: the server may have asked for an hour."""

    class Pausing(FastClock):
        waits = 0

        def wait_s(self, seconds: float) -> float:
            self.waits += 1
            return super().wait_s(seconds)

    clock = Pausing(speed=1.0)
    recorder.script([{"status": 503, "headers": {"Retry-After": "3600"}}])
    client = a_client(recorder, clock, sync=True)
    capturing = asyncio.create_task(client.capture("clicked", "user-1"))
    while not clock.waits:
        await asyncio.sleep(0.001)
    await client.close()
    with pytest.raises(DeliveryError, match="closed"):
        await asyncio.wait_for(capturing, 20.0)


@pytest.mark.parametrize("seed", range(3))
async def test_cancellations_at_any_moment_lose_and_repeat_nothing(
    seed: int, recorder: Recorder, clock: FastClock, tmp_path: Path
) -> None:
    """Every await of capture and flush is such a moment: after hundreds of them the client counts right and is not stuck."""
    chance = random.Random(seed)
    returned: set[str] = set()

    async def capture(durable: bool) -> None:
        event_id = await client.capture("clicked", "user-1", durable=durable)
        assert event_id is not None
        returned.add(event_id)

    options: dict[str, Any] = {"spool": tmp_path / "spool", "when_full": "spool", "queue_events_max": 20, "batch_events_max": 7}
    async with a_client(recorder, clock, **options) as client:
        for _ in range(60):
            tasks = [asyncio.create_task(capture(chance.random() < 0.3)) for _ in range(5)]
            tasks.append(asyncio.create_task(client.flush(100.0)))  # type: ignore[arg-type]
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)
            for task in tasks:
                if chance.random() < 0.5:
                    task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            assert not [each for each in ended if isinstance(each, Exception)]
        assert await client.flush(10_000.0)
        stats = client.stats()
    ids = [event["id"] for event in recorder.events]
    assert len(ids) == len(set(ids)) == stats.delivered == stats.accepted
    assert returned <= set(ids) and len(returned) > 50


def test_what_a_loop_has_claimed_when_it_ends_the_next_one_sends(
    recorder: Recorder, clock: FastClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk marks them as ours while nobody waits for the answer any more; they must not wait for the end of the process."""
    client = a_client(recorder, clock, spool=tmp_path / "spool", durable=True)
    claimed, ended = threading.Event(), threading.Event()
    claim = Spool.claim

    def slowly(self: Spool, **limits: Any) -> Claim:
        found = claim(self, **limits)
        if found.events:
            claimed.set()
            ended.wait(20.0)
        return found

    async def wait_for_the_end() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def begin() -> list[str | None]:
        monkeypatch.setattr(Spool, "claim", slowly)
        task = asyncio.create_task(wait_for_the_end())
        ids = [await client.capture("clicked", f"user-{number}") for number in range(3)]
        flushing = asyncio.create_task(client.flush(1_000.0))
        await asyncio.to_thread(claimed.wait, 20.0)
        assert not task.done() and not flushing.done()
        return ids

    async def end() -> None:
        monkeypatch.setattr(Spool, "claim", claim)
        assert await client.flush(1_000.0)
        await client.close()

    ids = asyncio.run(begin())
    assert recorder.seen == []
    asyncio.run(end())
    assert recorder.kept == set(ids)
    assert client.stats() == (3, 3, {}, 0)


def test_what_one_loop_leaves_the_next_one_sends(recorder: Recorder, clock: FastClock) -> None:
    """Each `asyncio.run` is a loop of its own; one that ends in the middle of a request takes nothing with it."""
    recorder.gate.clear()
    client = a_client(recorder, clock, batch_events_max=1)

    async def begin() -> list[str | None]:
        ids = [await client.capture("clicked", f"user-{number}") for number in range(3)]
        while not recorder.seen:
            await asyncio.sleep(0.001)
        return ids

    async def end() -> str | None:
        recorder.gate.set()
        last = await client.capture("clicked", "user-4")
        assert await client.flush(1_000.0)
        await client.close()
        return last

    ids = asyncio.run(begin())
    ids.append(asyncio.run(end()))
    assert recorder.kept == set(ids)
    assert client.stats() == (4, 4, {}, 0)
