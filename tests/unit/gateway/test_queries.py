"""Passing queries on, as far as it needs no socket."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.queries import canonical, raw_target, read_expected
from gateway.request_log import first_segment, shown_headers
from gateway.workers import worker_urls
from streams.settings import Gateway, Settings


def received(body: bytes) -> Any:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


@pytest.mark.parametrize(
    "body", [b"", b"null", b"[]", b"{}", b"{", b"hello", b"\xff\xfe", b'{"a":1}x', b"{" * 100_000, b"1" * 2_000_000]
)
async def test_body_that_is_no_json_object_is_ignored(body: bytes) -> None:
    """Rule 9 of the specification, A7 point 13: a query's body may be anything at all."""
    assert await read_expected({"headers": []}, received(body)) is None


async def test_expected_answer_is_compared_by_value() -> None:
    """A17: neither the order of keys nor blanks make an answer wrong; another type does."""
    expected = await read_expected({"headers": []}, received(b' {"rows": [["1"]], "columns": ["count"]}'))
    assert expected == canonical(b'{"columns":["count"],"rows":[["1"]]}')
    assert expected != canonical(b'{"columns":["count"],"rows":[[1]]}')


@pytest.mark.parametrize("change", [{"count": True}, {"count": 1.0}, {"count": "1"}, {"count": 1, "more": None}])
def test_other_type_of_a_value_is_another_answer(change: dict[str, Any]) -> None:
    """In Python 1 == 1.0 == True; in an answer they differ."""
    assert canonical(json.dumps(change).encode()) != canonical(b'{"count": 1}')


def test_target_is_what_the_client_wrote() -> None:
    """A7 point 25: a worker decodes once, so a gateway that decoded and encoded again would change cookies."""
    scope = {"raw_path": b"/user_profiles/a%2Fb%25c", "path": "/user_profiles/a/b%c", "query_string": b"limit=%31&x=+%20"}
    assert raw_target(scope) == "/user_profiles/a%2Fb%25c?limit=%31&x=+%20"
    assert raw_target(scope | {"query_string": b""}) == "/user_profiles/a%2Fb%25c"


def test_secret_headers_are_never_shown() -> None:
    """A15: headers are logged on demand; credentials never."""
    names = [b"authorization", b"cookie", b"x-api-key", b"proxy-authorization"]
    shown = shown_headers({"headers": [(name, b"secret") for name in names] + [(b"host", b"x")]})
    assert shown == {"host": "x"} | {name.decode(): "hidden" for name in names}


def test_logged_path_names_no_user() -> None:
    """A request line is written without personal data unless bodies are asked for."""
    assert first_segment("/user_profiles/somebody/else") == "/user_profiles"
    assert first_segment("/") == "/"


def test_worker_list_is_the_setting_or_the_first_local_worker() -> None:
    """`make run` passes the list; a gateway that somebody starts alone finds the worker of this machine."""
    assert worker_urls(Settings(gateway=Gateway(workers=" http://a:1 ,http://b:2,"))) == ["http://a:1", "http://b:2"]
    assert worker_urls(Settings()) == ["http://127.0.0.1:6066"]
