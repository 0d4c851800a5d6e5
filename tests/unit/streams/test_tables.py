"""When Faust's tables go on at a start: topics are subscribed to right after them, and what comes later waits 45 s."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from streams import app
from streams.app import Tables

SOURCE = "user-tags.v1"


class StartedTables(Tables):
    """Tables that note what they do at their start."""

    def __init__(self, *, listening: list[Any]) -> None:
        super().__init__(app=SimpleNamespace(agents={"count": Agent()}, topics=listening))
        self.done: list[str] = []
        self._recovery: Any = SimpleNamespace(start=self._start_recovery)

    async def _update_channels(self) -> None:
        self.done.append("registered")

    async def _start_recovery(self) -> None:
        self.done.append("recovering")


class Agent:
    """An agent that reads the source."""

    def get_topic_names(self) -> list[str]:
        return [SOURCE]


def topic(*names: str) -> Any:
    return SimpleNamespace(topics=list(names))


def test_tables_are_registered_once_every_agent_listens() -> None:
    """Not before, and at once: there is no second to wait for."""

    async def start() -> None:
        listening = [topic("another")]
        tables = StartedTables(listening=listening)
        starting = asyncio.ensure_future(tables.on_start())
        for _ in range(3):
            await asyncio.sleep(0)
        assert tables.done == []
        listening.append(topic(SOURCE))
        await starting
        assert tables.done == ["registered", "recovering"]

    asyncio.run(start())


def test_an_agent_that_never_listens_holds_up_no_start(monkeypatch: Any) -> None:
    """It is what Faust would have done, after as long."""
    monkeypatch.setattr(app, "LISTENING_WITHIN_S", 0.02)
    tables = StartedTables(listening=[])
    asyncio.run(tables.on_start())
    assert tables.done == ["registered", "recovering"]
