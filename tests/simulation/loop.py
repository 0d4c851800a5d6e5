"""Run one simulated process: an event loop without threads, sockets or real time, whose next callback a seed picks.

Each process has a loop of its own. The scheduler lets one callback of one process run at a time, so every await is a place
where another process may run, and where this one may be paused (its loop is not stepped) or killed (its loop is dropped with
all that waited in it). Ready callbacks run in any order, where asyncio itself would keep that of their becoming ready: what
is exact here needs no luck there.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import inspect
from asyncio import events
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any


class VirtualClock:
    """The time of all processes of one schedule; only the scheduler moves it."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def now_ms(self) -> int:
        return int(self.now_s * 1000)

    def monotonic_s(self) -> float:
        return self.now_s


class ProcessEndedError(BaseException):
    """Stand where `os._exit` would: nothing of the process runs after it."""


class ProcessLoop(asyncio.AbstractEventLoop):
    """The event loop of one process.

    Attributes:
        ready: callbacks that may run now, in no order.
        dead: the process was killed or ended itself: nothing is taken any more.
        errors: what escaped from callbacks.
    """

    def __init__(self, rng: Random, clock: VirtualClock) -> None:
        self.ready: list[asyncio.Handle] = []
        self.dead = False
        self.errors: list[Any] = []
        self._rng = rng
        self._clock = clock
        self._timers: list[asyncio.TimerHandle] = []
        self._tasks: dict[asyncio.Task[Any], None] = {}  # a set's order would differ from run to run

    # -- what asyncio calls

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        if not self.dead:
            self.ready.append(handle)
        return handle

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(self._clock.now_s + delay, callback, args, self, context)
        heapq.heappush(self._timers, timer)
        return timer

    def time(self) -> float:
        return self._clock.now_s

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Coroutine[Any, Any, Any], **kwargs: Any) -> asyncio.Task[Any]:  # type: ignore[override]
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=self, **kwargs)
        if self.dead:
            drop(task)
            return task
        self._tasks[task] = None
        task.add_done_callback(self._tasks.pop)
        return task

    def get_debug(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not self.dead:
            self.errors.append(context.get("exception") or context["message"])

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Take note of nothing: a cancelled timer is passed over when it is due."""

    # -- what the scheduler calls

    def start(self, coro: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Begin a task from outside the loop."""
        events._set_running_loop(self)
        try:
            return self.create_task(coro)
        finally:
            events._set_running_loop(None)

    def run(self, callbacks_max: int) -> None:
        """Run some of the callbacks that are ready, and of those that become so."""
        ready, draw = self.ready, self._rng.random
        events._set_running_loop(self)
        try:
            while ready and callbacks_max:
                callbacks_max -= 1
                index = int(draw() * len(ready))
                handle = ready[index]
                ready[index] = ready[-1]
                ready.pop()
                if not handle._cancelled:
                    handle._run()
        finally:
            events._set_running_loop(None)

    def fire_timers(self) -> None:
        """Make what is due ready."""
        while self._timers and self._timers[0].when() <= self._clock.now_s:
            timer = heapq.heappop(self._timers)
            if not timer.cancelled():
                self.ready.append(timer)

    def next_timer_s(self) -> float | None:
        """Return when the next timer is due, None for never."""
        while self._timers and self._timers[0].cancelled():
            heapq.heappop(self._timers)
        return self._timers[0].when() if self._timers else None

    def kill(self) -> None:
        """Drop everything, as SIGKILL does."""
        self.dead = True
        self.ready.clear()
        self._timers.clear()
        for task in list(self._tasks):
            drop(task)
        self._tasks.clear()


def drop(task: asyncio.Task[Any]) -> None:
    """Let go of a task of a dead process without a word."""
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    coro: Any = task.get_coro()
    if inspect.getcoroutinestate(coro) != inspect.CORO_RUNNING:
        coro.close()  # now, not when its garbage is collected: what it still does here reaches nobody
