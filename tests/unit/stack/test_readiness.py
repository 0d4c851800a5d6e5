"""What is told of processes that start, end and come back."""

from __future__ import annotations

import pytest

from stack.manager import ProcessState
from stack.readiness import _reason_in, describe_end

RUNNING = ProcessState(11, "RUNNING", 0)


def test_process_that_stays_is_not_mentioned() -> None:
    """Silence means health."""
    assert describe_end("sinks", RUNNING, RUNNING) == ""


def test_process_that_came_back_is_told_once() -> None:
    """Between two lives it has no pid: that is the end already told, its return no second one."""
    gone = ProcessState(0, "BACKOFF", 1)
    assert describe_end("sinks", RUNNING, gone) == "sinks ended and is being started again"
    assert describe_end("sinks", gone, ProcessState(12, "RUNNING", 0)) == ""


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"reason": "recovering"}', "recovering"),
        (b'{"error": {"code": "not_ready"}}', "{'code': 'not_ready'}"),
        (b"<html>", "not ready"),
        (b"\xff", "not ready"),
        (b'{"reasons": ["no broker", "no worker"]}', "no broker; no worker"),
        (b"7", "7"),
    ],
)
def test_reason_is_read_from_whatever_answers(body: bytes, reason: str) -> None:
    """Something else may listen on the port."""
    assert _reason_in(body) == reason
