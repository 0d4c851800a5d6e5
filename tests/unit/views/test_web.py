"""Every error of a worker's pages is JSON of one form, without a trace or a payload."""

from __future__ import annotations

import json
import logging
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from streams.errors import IncompleteAnswerError
from streams.logs import Service, make_handler
from streams.metrics import WorkerMetrics
from streams.request_id import id_headers
from streams.settings import Settings
from streams.topics import USER_TAGS
from views.queries import BadQueryError
from views.web import Handler, Views, error_answer, errors_as_json, json_answer, with_request_id


def body_of(response: web.StreamResponse) -> Any:
    assert response.content_type == "application/json"
    return json.loads(cast("Any", response).body)


def raising(error: Exception) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        raise error

    return handler


def views() -> tuple[Views, WorkerMetrics]:
    metrics = WorkerMetrics()
    tables = cast("Any", SimpleNamespace(stream=USER_TAGS))
    return Views(tables, cast("Any", None), metrics), metrics


def test_error_has_code_and_message_and_503_says_when_to_try_again() -> None:
    """interface.md, HTTP."""
    response = error_answer(503, "incomplete", "partition 3 has no owner")
    assert body_of(response) == {"error": {"code": "incomplete", "message": "partition 3 has no owner"}}
    assert response.headers["Retry-After"] == "1"
    assert "Retry-After" not in error_answer(400, "bad_query", "x").headers


def test_answer_is_utf8_json_whatever_the_texts_hold() -> None:
    """A7 point 25."""
    value = {"cookie": "zażółć\u2028\x7f😀", "views": []}
    assert body_of(json_answer(value)) == value


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [(BadQueryError("limit is '-1'"), 400, "bad_query"), (IncompleteAnswerError("no owner"), 503, "incomplete")],
)
async def test_expected_errors_are_answered_and_counted(error: Exception, status: int, code: str) -> None:
    """A7 point 16: the reason goes to whoever asked, and a figure to whoever runs it."""
    pages, metrics = views()
    response = await pages.timed("profile", raising(error), scope="whole")(make_mocked_request("GET", "/"))
    assert response.status == status
    assert body_of(response)["error"] == {"code": code, "message": str(error)}
    assert f'tally_query_errors_total{{code="{status}",query="profile"}} 1.0' in metrics.text().decode()


async def test_bug_in_a_query_is_counted_too() -> None:
    """What `errors_as_json` answers with 500 would else be missing from the share of queries that fail."""
    pages, metrics = views()
    with pytest.raises(ZeroDivisionError):
        await pages.timed("profile", raising(ZeroDivisionError()), scope="whole")(make_mocked_request("GET", "/"))
    assert 'tally_query_errors_total{code="500",query="profile"} 1.0' in metrics.text().decode()


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (web.HTTPNotFound(), 404, "not_found"),
        (web.HTTPMethodNotAllowed("PUT", ["GET", "POST"]), 405, "method_not_allowed"),
        (web.HTTPBadRequest(), 400, "bad_request"),
    ],
)
async def test_errors_of_the_framework_are_json_too(error: Exception, status: int, code: str) -> None:
    """interface.md: an unknown path 404, a wrong method 405 with what is allowed."""
    response = await errors_as_json(make_mocked_request("PUT", "/nowhere"), raising(error))
    assert (response.status, body_of(response)["error"]["code"]) == (status, code)
    assert response.headers.get("Allow", "") == ("GET,POST" if status == 405 else "")


async def test_our_own_failure_tells_nothing_but_that_it_failed(caplog: pytest.LogCaptureFixture) -> None:
    """No stack trace and no payload in an answer; the log has the trace."""
    with caplog.at_level(logging.ERROR, "views.web"):
        response = await errors_as_json(make_mocked_request("GET", "/aggregates"), raising(KeyError("secret cookie")))
    assert response.status == 500
    assert "secret" not in json.dumps(body_of(response))
    assert "KeyError" in caplog.text


@pytest.mark.parametrize(("sent", "taken"), [("shop-1", "shop-1"), ("a b", None), ("", None), (None, None)])
async def test_id_of_a_request_stands_in_every_line_about_it(sent: str | None, taken: str | None) -> None:
    """It was given to the gateway, and the trace is here: nothing else says that both are of one request."""
    lines: list[logging.LogRecord] = []
    asked: list[dict[str, str]] = []
    handler = make_handler(Settings(), Service("worker", 0))
    handler.emit = lines.append  # type: ignore[method-assign, assignment]
    logging.getLogger("views").addHandler(handler)

    async def fail(request: web.Request) -> web.StreamResponse:
        asked.append(dict(id_headers()))  # what another worker is asked with
        raise KeyError("cookie")

    try:
        request = make_mocked_request("GET", "/aggregates", headers={} if sent is None else {"X-Request-Id": sent})
        await with_request_id(request, lambda request: errors_as_json(request, fail))
    finally:
        logging.getLogger("views").removeHandler(handler)
    assert [getattr(line, "request_id", None) for line in lines] == [taken]
    assert asked == [{"X-Request-Id": taken} if taken else {}]
    assert id_headers() == {}, "the next request on the same connection would carry it on"
