"""Ask the sinks how they are, by their health and metrics; whatever they answer, or not, the page goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import aiohttp

from streams.clock import Clock
from streams.settings import Settings
from views.dashboard_queries import format_second

LOOPBACK = "127.0.0.1"
ASK_INTERVAL_S = 5.0
TIMEOUT_S = 1.0
BEHIND_RECORDS_MIN = 1_000
"""A moment's traffic is always on its way."""
SILENT_S = 30.0
"""Records that wait for longer than this without a transaction are behind, however few."""
LAG = "tally_sink_lag_records"
LAST_SUCCESS = "tally_sink_last_success_timestamp_seconds"
READY = 200


class SinksState:
    """The state of the sinks, asked every few seconds at most."""

    def __init__(self, settings: Settings, client: Callable[[], aiohttp.ClientSession], clock: Clock) -> None:
        self._url = settings.dashboard.sinks_url.rstrip("/") or f"http://{LOOPBACK}:{settings.sinks.port}"
        self._client = client
        self._clock = clock
        self._asked_s = float("-inf")
        self._state: dict[str, Any] = _state("unknown")

    async def newest(self) -> dict[str, Any]:
        """Return the state of at most `ASK_INTERVAL_S` ago."""
        if self._clock.monotonic_s() - self._asked_s >= ASK_INTERVAL_S:
            self._asked_s = self._clock.monotonic_s()
            self._state = await self._ask()
        return self._state

    async def _ask(self) -> dict[str, Any]:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        try:
            async with self._client().get(f"{self._url}/ready", timeout=timeout) as response:
                ready = response.status == READY
            async with self._client().get(f"{self._url}/metrics", timeout=timeout) as response:
                text = await response.text()
        except (aiohttp.ClientConnectorError, aiohttp.ServerDisconnectedError):
            return _state("down")
        except (aiohttp.ClientError, TimeoutError, RuntimeError, ValueError):
            return _state("unknown")
        return read_state(text, ready=ready, now_s=self._clock.now_ms() / 1000)


def read_state(text: str, *, ready: bool, now_s: float) -> dict[str, Any]:
    """Return the state out of Prometheus text.

    >>> read_state(f'{LAG}{{topic="t",partition="0"}} 3.0\\n{LAST_SUCCESS} 100.0', ready=True, now_s=101.0)
    {'state': 'ok', 'lag_records': 3, 'last_success': '1970-01-01T00:01:40Z'}
    """
    lag = _sum(text, LAG)
    last_s = _sum(text, LAST_SUCCESS) or None
    if lag is None:
        return _state("unknown")
    silent = lag > 0 and last_s is not None and now_s - last_s > SILENT_S
    name = "behind" if not ready or silent or lag >= BEHIND_RECORDS_MIN else "ok"
    return _state(name, int(lag), None if last_s is None else format_second(last_s))


def _sum(text: str, name: str) -> float | None:
    """Return the sum of a metric's series; None where there is none."""
    lines = [line for line in text.splitlines() if line.startswith((f"{name} ", f"{name}{{"))]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines) if lines else None


def _state(name: str, lag: int | None = None, last_success: str | None = None) -> dict[str, Any]:
    return {"state": name, "lag_records": lag, "last_success": last_success}
