"""What repeats is held back and counted; nothing that stands alone is lost."""

from __future__ import annotations

import io
import logging

from streams.logs import LineHandler
from streams.repeats import EVERY_LINE, REPEATS_MAX, REPEATS_WINDOW_S, RepeatLimit
from tests.support.clock import SteppedClock


def a_handler() -> tuple[LineHandler, SteppedClock, io.StringIO]:
    clock, out = SteppedClock(), io.StringIO()
    handler = LineHandler(RepeatLimit(clock))
    handler.setStream(out)
    return handler, clock, out


def say(handler: LineHandler, message: str, *, times: int = 1, level: int = logging.WARNING, name: str = "sinks.loop") -> None:
    for number in range(times):
        handler.handle(logging.LogRecord(name, level, __file__, 1, message, (number,), None))


def test_lines_alike_are_counted_and_told_of_in_the_next_window() -> None:
    """Alike is what has one template: the values differ every time, and are what floods."""
    handler, clock, out = a_handler()
    say(handler, "try %d failed", times=REPEATS_MAX + 30)
    assert len(out.getvalue().splitlines()) == REPEATS_MAX
    say(handler, "another %d")
    clock.step(REPEATS_WINDOW_S)
    say(handler, "try %d failed")
    *_, another, summary, last = out.getvalue().splitlines()
    assert (another, summary, last) == ("another 0", "held back 30 more lines like: try %d failed", "try 0 failed")


def test_what_was_held_back_is_told_at_the_end() -> None:
    """A process that ends in a flood would else take the number along."""
    handler, _, out = a_handler()
    say(handler, "try %d failed", times=REPEATS_MAX + 1)
    handler.close()
    assert out.getvalue().splitlines()[-1] == "held back 1 more lines like: try %d failed"


def test_critical_lines_and_asked_for_lines_always_pass() -> None:
    """The last word of a worker, and the log of requests, are wanted line by line."""
    handler, _, out = a_handler()
    say(handler, "the worker stops: %d", times=REPEATS_MAX * 2, level=logging.CRITICAL)
    say(handler, "request %d", times=REPEATS_MAX * 2, level=logging.INFO, name=min(EVERY_LINE))
    handler.close()
    assert len(out.getvalue().splitlines()) == REPEATS_MAX * 4
