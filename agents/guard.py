"""Let nothing escape into Faust: an exception that leaves an agent acknowledges the batch that failed.

What cannot be counted becomes a dead letter; too many of them, and everything else, ends the process before an offset is
committed. Whatever runs it starts it again, and it reads on from its last commit.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import NoReturn

from streams.errors import DeadLetterLimitError, TallyError
from streams.settings import DeadLetters
from tables.fold import Refused

log = logging.getLogger(__name__)

EXIT_CODE = 70
"""`EX_SOFTWARE`: the manager starts the process again."""

BEFORE_END: list[Callable[[BaseException], None]] = []
"""Told of the error that ends the process; must not raise, and must be quick."""


def end_process(error: BaseException) -> NoReturn:
    """Say why, and end this process at once: no clean-up that could acknowledge or commit anything."""
    if isinstance(error, TallyError):
        log.critical("the worker stops: %s", error)
    else:
        log.critical("the worker stops after an unexpected error", exc_info=error)
    for tell in BEFORE_END:
        tell(error)
    for handler in logging.getLogger().handlers:
        handler.flush()
    os._exit(EXIT_CODE)


@asynccontextmanager
async def guard() -> AsyncIterator[None]:
    """End the process on any exception of the body but cancellation."""
    try:
        yield
    except (asyncio.CancelledError, GeneratorExit):
        raise
    except BaseException as error:  # noqa: BLE001 - that is what it is for
        end_process(error)


class DeadLetterShare:
    """The share of dead letters among the last records; past its limit something upstream is broken."""

    def __init__(self, limits: DeadLetters) -> None:
        self._limits = limits
        self._batches: deque[tuple[int, int]] = deque()
        self._records = 0
        self._dead = 0

    @property
    def share(self) -> float:
        """Return dead letters by records, 0 to 1."""
        return self._dead / self._records if self._records else 0.0

    def add(self, *, records: int, dead: int, last: Refused | None = None) -> None:
        """Count one batch; *last* is its last dead letter, which may be nowhere else yet.

        Raises:
            DeadLetterLimitError: the window is full and its share too large; the batch is not acknowledged, so nothing is
                lost: it is read again by the next start.
        """
        self._batches.append((records, dead))
        self._records += records
        self._dead += dead
        window = self._limits.window_records
        while self._records - self._batches[0][0] >= window:
            old_records, old_dead = self._batches.popleft()
            self._records -= old_records
            self._dead -= old_dead
        if self._records >= window and self.share > self._limits.share_max:
            raise DeadLetterLimitError(
                f"{self._dead} of the last {self._records} records are dead letters, more than a share of "
                f"{self._limits.share_max}{told(last)}; `python -m agents.replay list` tells the reasons of those before; mend "
                "the producer, or Tally; to let these records through start with TALLY_DEAD_LETTERS_SHARE_MAX=1 until they are "
                "past, and send those that pass after a fix back by `python -m agents.replay send`"
            )


def told(last: Refused | None) -> str:
    """Return which record a limit tripped at, and why it is dead."""
    return f" (the last one at offset {last.offset}, {last.reason}: {last.detail})" if last else ""
