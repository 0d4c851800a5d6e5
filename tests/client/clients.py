"""Both clients behind one face, so that a case need not know which it runs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from tally_client import AnalyticsClient, AsyncAnalyticsClient, Credentials, Options, Stats

T = TypeVar("T")
FLUSH_S = 6_000.0
"""Of a fast clock: two minutes of the machine's at most."""
PATIENCE_S = 20.0


class Threads:
    """`AnalyticsClient`."""

    def __init__(self, url: str, credentials: Credentials | str | None, options: Options) -> None:
        self.client = AnalyticsClient(url, credentials, options)

    def capture(self, event_type: str = "clicked", user_id: str | None = "user-1", **fields: Any) -> str | None:
        return self.client.capture(event_type, user_id, **fields)

    def flush(self, timeout_s: float = FLUSH_S) -> bool:
        return self.client.flush(timeout_s)

    def wait_for(self, condition: Callable[[], bool]) -> None:
        until_s = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < until_s, "it did not happen"
            time.sleep(0.002)

    def close(self, timeout_s: float | None = None) -> None:
        self.client.close(timeout_s)

    def stats(self) -> Stats:
        return self.client.stats()

    def end(self) -> None:
        self.client.close(0)


class Asyncio:
    """`AsyncAnalyticsClient`, on a loop that runs whenever it is waited for."""

    def __init__(self, url: str, credentials: Credentials | str | None, options: Options) -> None:
        self.loop = asyncio.new_event_loop()
        self.client = self._run(self._open(url, credentials, options))

    async def _open(self, url: str, credentials: Credentials | str | None, options: Options) -> AsyncAnalyticsClient:
        return await AsyncAnalyticsClient(url, credentials, options).__aenter__()

    def _run(self, awaited: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(awaited)

    def capture(self, event_type: str = "clicked", user_id: str | None = "user-1", **fields: Any) -> str | None:
        return self._run(self.client.capture(event_type, user_id, **fields))

    def flush(self, timeout_s: float = FLUSH_S) -> bool:
        return self._run(self.client.flush(timeout_s))

    def wait_for(self, condition: Callable[[], bool]) -> None:
        async def wait() -> None:
            until_s = time.monotonic() + PATIENCE_S
            while not condition():
                assert time.monotonic() < until_s, "it did not happen"
                await asyncio.sleep(0.002)

        self._run(wait())

    def close(self, timeout_s: float | None = None) -> None:
        self._run(self.client.close(timeout_s))

    def stats(self) -> Stats:
        return self.client.stats()

    def end(self) -> None:
        """Close the client and the loop; what is still on the loop ends first, so that nothing is left to warn of."""
        if not self.loop.is_closed():
            self.close(0)
            self._run(_settled())
            self._run(self.loop.shutdown_default_executor())
            self.loop.close()


async def _settled() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.sleep(0)


KINDS: Sequence[type[Threads] | type[Asyncio]] = (Threads, Asyncio)
AnyClient = Threads | Asyncio
