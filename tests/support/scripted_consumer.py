"""The product's consumer on an app of its own, its broker's side played by a script: no socket, no thread, no waiting."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import faust
from faust.types import TP

from streams import transport
from streams.runs import Run
from streams.topics import USER_TAGS

SOURCE = TP(USER_TAGS.topic, 0)
SECOND = TP(USER_TAGS.topic, 1)
CHANGELOG = TP("tally-minute-blocks-changelog", 0)


class ScriptedConsumer(transport.Consumer):
    """A consumer whose broker says what the test wants.

    Attributes:
        held: first offset that the log holds, by partition.
        group: what the group has committed, by partition.
        sought: every seek that reached aiokafka, in order.
        fetches: what the next fetches return.
        commits: what was committed, in order; the broker refuses while `refuses` is set.
    """

    def __init__(self, app: faust.App) -> None:
        super().__init__(app.transport, nothing, nothing, nothing)
        self.assigned: set[TP] = {SOURCE, SECOND, CHANGELOG}
        self.held: dict[TP, int] = {}
        self.group: dict[TP, int] = {}
        self.sought: list[tuple[TP, int]] = []
        self.fetches: deque[dict[TP, list[Any]]] = deque()
        self.commits: list[dict[TP, int]] = []
        self.refuses = False
        self.on_seek: list[Any] = []
        self._thread.thread_loop.close()  # made at once, though the thread is never started
        self._set_active_tps(self.assigned)

    def assignment(self) -> set[TP]:
        return set(self.assigned)

    def highwater(self, tp: TP) -> int:
        return 0

    async def earliest_offsets(self, *partitions: TP) -> dict[TP, int]:
        return {tp: self.held.get(tp, 0) for tp in partitions}

    async def seek_to_committed(self) -> dict[TP, int]:
        return {tp: self.group[tp] for tp in self.assigned if tp in self.group}

    async def seek_wait(self, partitions: Any) -> None:
        for step in self.on_seek[:]:
            await step()
        self.sought.extend(partitions.items())

    async def _getmany(self, active_partitions: Any, timeout: float) -> Any:
        return self.fetches.popleft() if self.fetches else {}

    async def _commit(self, offsets: Any) -> bool:
        if self.refuses:
            return False
        self.commits.append(dict(offsets))
        self.group.update(offsets)
        return True

    # -- what tests say in one line

    async def sought_to(self, tp: TP = SOURCE, *, committed: int | None = None) -> ScriptedConsumer:
        """Seek everything as at the end of a recovery."""
        if committed is not None:
            self.group[tp] = committed
        await self.perform_seek()
        return self

    async def delivered(self, tp: TP = SOURCE, *runs: Any) -> list[Any]:
        """Return the messages that one fetch of *runs*, or of records of another topic, is delivered as."""
        self.fetches.append({tp: list(runs)})
        return [message async for _, message in self.getmany(0.1)]


async def nothing(*_: Any, **__: Any) -> None:
    """Stand where Faust wants a callback."""


class SilentProducer:
    """Stands where Faust flushes before it commits."""

    async def flush(self) -> None:
        return None


def a_run(start: int, records: int, *, base: int | None = None) -> Run:
    """Return a run read on from *start*; its values do not matter."""
    first = start if base is None else base
    return Run(start, first, [b"{}"] * records, [None] * records)


def some_runs(start: int, *records: int) -> list[Run]:
    """Return runs that continue each other."""
    runs: list[Run] = []
    for count in records:
        runs.append(a_run(start, count))
        start += count
    return runs


def an_app(home: Path, **settings: str) -> faust.App:
    """Return an app of the product's own factory that is never started; its broker does not exist."""
    from streams.app import create_app
    from streams.settings import load_settings
    from tables import store

    environ = {"TALLY_KAFKA_SERVERS": "127.0.0.1:1", "TALLY_STACK_HOME": str(home), **settings}
    return create_app(load_settings(environ), store=store.SCHEME)


def a_consumer(home: Path) -> ScriptedConsumer:
    """Return a scripted consumer of an app whose source topic acknowledges."""
    app = an_app(home)
    app._producer = SilentProducer()
    app.topics.acks_enabled_for = lambda topic: True
    return ScriptedConsumer(app)


def acknowledge(consumer: ScriptedConsumer, messages: Iterable[Any]) -> None:
    """Acknowledge as the agent does."""
    for message in messages:
        consumer.ack(message)
