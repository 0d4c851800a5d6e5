"""What the gateway says itself."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.answers import JSON_TYPE, RETRY_AFTER, answer, answer_error, error_body


class SentMessages(list[Any]):
    """Collects what an application sends."""

    async def __call__(self, message: Any) -> None:
        self.append(message)


def test_error_has_code_and_message_and_a_hint_only_when_there_is_one() -> None:
    """The form that interface.md promises to clients."""
    assert json.loads(error_body("a", "b")) == {"error": {"code": "a", "message": "b"}}
    assert json.loads(error_body("a", "b", "c")) == {"error": {"code": "a", "message": "b", "hint": "c"}}


@pytest.mark.parametrize(("status", "says_when"), [(503, True), (400, False), (413, False), (500, False)])
async def test_only_an_error_that_passes_says_when_to_try_again(status: int, says_when: bool) -> None:
    """A client that repeats a 400 after Retry-After would repeat it for ever."""
    sent = SentMessages()
    await answer_error(sent, status, b"{}")
    assert (RETRY_AFTER in sent[0]["headers"]) is says_when


async def test_answer_is_json_unless_it_says_otherwise() -> None:
    """A worker's content type is passed on; all that is ours is JSON."""
    ours, theirs = SentMessages(), SentMessages()
    await answer(ours, 200, b"{}")
    await answer(theirs, 200, b"hello", [(b"content-type", b"text/plain")])
    assert JSON_TYPE in ours[0]["headers"]
    assert [value for name, value in theirs[0]["headers"] if name == b"content-type"] == [b"text/plain"]
    assert (b"content-length", b"5") in theirs[0]["headers"]
