"""Write a day's tags into Kafka as fast as it may, from a process of its own: `python -m bench.day_tags SERVERS EVENTS FILE`.

A line of standard input is how many events may have been sent by then; without a new one it waits. At the end FILE holds, as
JSON, what every answer must be. About 6 µs of processor time an event; zstd, since aiokafka's lz4 takes twice as long and
makes half as much again of it.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from time import process_time
from typing import Any

import msgspec
import numpy as np
from aiokafka import AIOKafkaProducer
from numpy.typing import NDArray

from bench.workloads import MANY, events_of
from load.events import GeneratedEvent, cookie_of
from streams.event_time import MINUTE_MS
from streams.topics import USER_TAGS

BATCH_BYTES = 1 << 20
BATCHES_WAITING_MAX = 16
TURN_EVENTS = 10_000
HOT_WATCHED, OTHERS_WATCHED, OTHERS_STEP = 2, 98, 10_007
"""Users whose profiles are checked: some that have far more than is kept, and some like most."""
KEPT = 200
SEED, MULTIPLIER = 0x9747B28C, np.uint32(0x5BD1E995)
SHIFT, FIRST_SHIFT, LAST_SHIFT, POSITIVE = np.uint32(24), np.uint32(13), np.uint32(15), np.uint32(0x7FFFFFFF)
DAY = replace(MANY, name="day", step_ms=1.0)
"""As the task has it: a tag a millisecond, 60,000 a minute. Its cells are those of `many`."""


class _Product(msgspec.Struct):
    price: int


class _Counted(msgspec.Struct):
    action: str
    product_info: _Product


class Expected:
    """What must be answered, from what was sent."""

    def __init__(self) -> None:
        self._totals: defaultdict[tuple[int, str], list[int]] = defaultdict(lambda: [0, 0])
        numbers = [*range(HOT_WATCHED), *(number * OTHERS_STEP for number in range(1, OTHERS_WATCHED + 1))]
        self._newest = {cookie_of(number): {kind: deque[bytes](maxlen=KEPT) for kind in USER_TAGS.kinds} for number in numbers}
        self._decode = msgspec.json.Decoder(_Counted).decode

    def add(self, event: GeneratedEvent) -> None:
        """Count one event; they come by rising time."""
        counted = self._decode(event.body)
        totals = self._totals[event.at_ms // MINUTE_MS, counted.action]
        totals[0] += 1
        totals[1] += counted.product_info.price
        if event.cookie in self._newest:
            self._newest[event.cookie][counted.action].append(event.body)

    def as_json(self) -> dict[str, Any]:
        """Return totals as [minute, action, count, sum], and whole profiles by user."""
        profiles = {
            cookie.decode(): {kind: [json.loads(body) for body in reversed(bodies)] for kind, bodies in newest.items()}
            for cookie, newest in self._newest.items()
        }
        return {"totals": [[*key, *values] for key, values in sorted(self._totals.items())], "profiles": profiles}


def partitions_of(cookies: Sequence[bytes], partitions: int) -> list[int]:
    """Return what `streams.partitioner.partition_of` gives each of *cookies*, 20 bytes each, all at once: 0.2 µs each.

    >>> from streams.partitioner import partition_of
    >>> partitions_of([cookie_of(7), cookie_of(8)], 4) == [partition_of(cookie_of(number), 4) for number in (7, 8)]
    True
    """
    words: NDArray[np.uint32] = np.frombuffer(b"".join(cookies), "<u4").reshape(len(cookies), -1)
    state: NDArray[np.uint32] = np.full(len(cookies), SEED ^ words.shape[1] * 4, np.uint32)
    for column in words.T:
        mixed = column * MULTIPLIER
        state = state * MULTIPLIER ^ (mixed ^ mixed >> SHIFT) * MULTIPLIER
    state = (state ^ state >> FIRST_SHIFT) * MULTIPLIER
    chosen: list[int] = (((state ^ state >> LAST_SHIFT) & POSITIVE) % np.uint32(partitions)).tolist()
    return chosen


class Sender:
    """Sends batches, a bounded number at a time."""

    def __init__(self, producer: AIOKafkaProducer, partitions: int) -> None:
        self._producer = producer
        self._batches = [producer.create_batch() for _ in range(partitions)]
        self._waiting: deque[asyncio.Future[Any]] = deque()

    async def add(self, event: GeneratedEvent, partition: int) -> None:
        """Put an event into its partition's batch, which is sent when it is full."""
        if self._batches[partition].append(key=event.cookie, value=event.body, timestamp=None) is None:
            await self._send(partition)
            self._batches[partition] = self._producer.create_batch()
            self._batches[partition].append(key=event.cookie, value=event.body, timestamp=None)

    async def flush(self) -> None:
        """Send what is left, and return when Kafka has acknowledged everything."""
        for partition in range(len(self._batches)):
            await self._send(partition)
        await asyncio.gather(*self._waiting)

    async def _send(self, partition: int) -> None:
        self._waiting.append(await self._producer.send_batch(self._batches[partition], USER_TAGS.topic, partition=partition))
        while len(self._waiting) > BATCHES_WAITING_MAX:
            await self._waiting.popleft()


class Credit:
    """How many events may be sent, as standard input says."""

    def __init__(self) -> None:
        self._count = 0
        self._raised = asyncio.Event()

    async def read(self) -> None:
        """Read until the end of standard input; then nothing more may be sent."""
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        async for line in reader:
            self._count = int(line)
            self._raised.set()

    async def wait(self, count: int) -> None:
        """Return when so many events may be sent."""
        while self._count < count:
            self._raised.clear()
            await self._raised.wait()


async def send(servers: str, count: int) -> dict[str, Any]:
    """Send so many events of the day; return what must be answered."""
    expected, credit = Expected(), Credit()
    reading = asyncio.create_task(credit.read())
    producer = AIOKafkaProducer(bootstrap_servers=servers, acks="all", compression_type="zstd", max_batch_size=BATCH_BYTES)
    await producer.start()
    try:
        sender = Sender(producer, DAY.partitions)
        number = 0
        for turn in _turns(events_of(replace(DAY, events=count))):
            await credit.wait(number)
            number += len(turn)
            for event, partition in zip(turn, partitions_of([event.cookie for event in turn], DAY.partitions), strict=True):
                expected.add(event)
                await sender.add(event, partition)
        await sender.flush()
    finally:
        reading.cancel()
        await producer.stop()
    return expected.as_json()


def _turns(events: Iterator[GeneratedEvent]) -> Iterator[list[GeneratedEvent]]:
    while turn := list(islice(events, TURN_EVENTS)):
        yield turn


def main(servers: str, count: str, file: str) -> int:
    """Return the exit code."""
    expected = asyncio.run(send(servers, int(count)))
    Path(file).write_text(json.dumps(expected | {"cpu_s": process_time()}), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
