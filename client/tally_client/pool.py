"""Do jobs in the background by a few threads: from a bounded backlog, and again later where that may help."""

from __future__ import annotations

import heapq
import logging
import random
import threading
from collections.abc import Callable
from typing import NamedTuple

from tally_client import lifetimes
from tally_client.clock import SYSTEM_CLOCK, Clock
from tally_client.delivery import delay_s
from tally_client.events import QueuedEvent

log = logging.getLogger(__name__)


class Limits(NamedTuple):
    """How much a pool holds and does at once.

    Attributes:
        threads: jobs in flight at most.
        jobs_max: accepted and not yet done.
        bytes_max: of their bodies.
        age_s_max: when a job is given up that is not done.
    """

    threads: int
    jobs_max: int
    bytes_max: int
    age_s_max: float


class Job:
    """A body on its way.

    Attributes:
        event: its id stays the same however often the body is sent.
        attempts: begun so far.
        refused: whether the server has called the credentials of an attempt invalid.
    """

    __slots__ = ("attempts", "event", "refused")

    def __init__(self, event: QueuedEvent) -> None:
        self.event = event
        self.attempts = 0
        self.refused = False


class Pool:
    """Threads that work on jobs; daemons, started when there is something to do.

    A server that is down is not asked by each waiting job in its turn: after a failure all wait, the longer the more failures
    there were in a row, until a job is done. A wait that the server asked for is kept in any case.

    Args:
        work: does a job. None: it is done. A number: do it again, not before that many seconds.
        abandon: hears of each job that is given up, and why: `too_old`, `not_sent` (the pool was closed), `internal_error`.
    """

    def __init__(
        self,
        work: Callable[[Job], float | None],
        abandon: Callable[[Job, str], None],
        *,
        limits: Limits,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._work = work
        self._abandon = abandon
        self._limits = limits
        self._clock = clock
        self._closed = False
        self.forget()

    def forget(self) -> None:
        """Start anew with an empty backlog: after a fork it is the parent's, and so are the threads."""
        lock = threading.Lock()
        self._due = threading.Condition(lock)
        self._settled = threading.Condition(lock)
        self._own = threading.local()
        self._waiting: list[tuple[float, int, Job]] = []
        self._taken = self._jobs = self._bytes = self._order = 0
        self._threads = self._idle = self._failures = 0
        self._shut_until_s = self._shut_at_s = self._asked_until_s = 0.0

    def put(self, job: Job) -> str:
        """Take a job on; return why not (`closed`, `queue_full`), or nothing."""
        with self._due:
            if self._closed:
                return "closed"
            full = self._jobs >= self._limits.jobs_max or self._bytes + len(job.event.body) > self._limits.bytes_max
            if full or not self._has_thread_for_one_more():
                return "queue_full"
            self._taken += 1
            self._jobs += 1
            self._bytes += len(job.event.body)
            self._push(job, self._clock.elapsed_s())
            return ""

    def counts(self) -> tuple[int, int]:
        """Return how many jobs were taken on, and how many of them are not done."""
        with self._due:
            return self._taken, self._jobs

    def flush(self, timeout_s: float) -> bool:
        """Wait until every job is done, or for *timeout_s*; say whether they are. Inside a job, that one does not count."""
        with self._settled:
            own = int(getattr(self._own, "busy", False))
            return self._settled.wait_for(lambda: self._jobs <= own, timeout_s)

    def close(self) -> None:
        """Take nothing more, and give up what waits; what is in flight ends as it may, but is not done again."""
        with self._due:
            self._closed = True
            given_up = [job for _, _, job in self._waiting]
            self._waiting.clear()
            self._due.notify_all()
        for job in given_up:
            self._abandon(job, "not_sent")
            self._leave(job)

    def _has_thread_for_one_more(self) -> bool:
        if self._threads < self._limits.threads and len(self._waiting) >= self._idle:
            lifetimes.watch_multiprocessing()
            try:
                threading.Thread(target=self._run, name="tally-labs", daemon=True).start()
            except RuntimeError:  # The interpreter ends, or the system has no more threads.
                return self._threads > 0
            self._threads += 1
        return True

    def _push(self, job: Job, due_at_s: float) -> None:
        self._order += 1
        heapq.heappush(self._waiting, (due_at_s, self._order, job))
        self._due.notify()

    def _run(self) -> None:
        while True:
            job = self._take()
            if job is None:
                return
            self._own.busy = True
            self._bring_on(job)
            self._own.busy = False

    def _bring_on(self, job: Job) -> None:
        """Attempt a job once, unless it is too old; then let go of it, or put it back."""
        begun_at_s = self._clock.elapsed_s()
        if begun_at_s - job.event.enqueued_at_s > self._limits.age_s_max:
            self._abandon(job, "too_old")
        else:
            again_s = self._attempt(job)
            if again_s is not None and self._put_back(job, begun_at_s, again_s):
                return
            if again_s is not None:
                self._abandon(job, "not_sent")
            else:
                self._open()
        self._leave(job)

    def _take(self) -> Job | None:
        with self._due:
            while not self._closed:
                wait_s = None
                if self._waiting:
                    wait_s = max(self._waiting[0][0], self._shut_until_s, self._asked_until_s) - self._clock.elapsed_s()
                    if wait_s <= 0:
                        return heapq.heappop(self._waiting)[2]
                self._idle += 1
                self._due.wait(None if wait_s is None else self._clock.wait_s(wait_s))
                self._idle -= 1
            return None

    def _attempt(self, job: Job) -> float | None:
        job.attempts += 1
        try:
            return self._work(job)
        except Exception as error:  # noqa: BLE001 - a thread that dies would lose what comes after; the message may hold data
            log.error("a transaction was given up: %s", type(error).__name__)
            self._abandon(job, "internal_error")
            return None

    def _open(self) -> None:
        with self._due:
            self._failures = 0
            if self._shut_until_s:
                self._shut_until_s = 0.0
                self._due.notify_all()

    def _put_back(self, job: Job, begun_at_s: float, again_s: float) -> bool:
        with self._due:
            now_s = self._clock.elapsed_s()
            if begun_at_s >= self._shut_at_s:  # Else it failed together with others, which have been counted.
                self._failures += 1
                self._shut_at_s = now_s
                self._shut_until_s = now_s + _pause_s(self._failures, 0.0)
            self._asked_until_s = max(self._asked_until_s, now_s + again_s)
            if not self._closed:
                self._push(job, now_s + _pause_s(job.attempts, again_s))
            return not self._closed

    def _leave(self, job: Job) -> None:
        with self._settled:
            self._jobs -= 1
            self._bytes -= len(job.event.body)
            self._settled.notify_all()


def _pause_s(attempts: int, retry_after_s: float) -> float:
    return delay_s(attempts, retry_after_s=retry_after_s, jitter=random.random())  # noqa: S311 - jitter
