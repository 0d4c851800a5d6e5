"""Whatever fails behind the page's data: whoever asked gets a code, and the log what happened. No job is needed for it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import psycopg
import pytest
from aiohttp import ClientPayloadError, ClientResponse, web
from aiohttp.test_utils import TestClient, TestServer

from streams.metrics import WorkerMetrics
from streams.settings import load_settings
from streams.topics import USER_TAGS
from views import dashboard
from views.dashboard import PATH, Dashboard, create_dashboard
from views.dashboard_history import History
from views.dashboard_postgres import Reports
from views.dashboard_pulse import Pulse
from views.web import Views, errors_as_json

CANARY = "canary of ours: postgresql://tally:secret@db/tally"
INTERNALS = re.compile(r"canary|secret|postgresql:|Traceback|File \"|\.py\b|psycopg|aiohttp|RuntimeError")
ROUTES = {
    "now": "now",
    "series": "series",
    "top": "top?dimension=origin",
    "user": "user?cookie=somebody",
    "dead_letters": "dead-letters",
    "where": "where?partition=0&offset=0",
    "dimensions": "dimensions",
}
"""Method of `Dashboard`, and a right question for its route."""
PEERS: dict[str, tuple[Any, str]] = {
    "sums": (History, "sums_here"),
    "series": (History, "series_here"),
    "pulse": (Pulse, "answer"),
    "written": (Pulse, "written"),
}
"""Page by which workers ask each other, and what it asks."""
WRONG = (
    "series?unknown=x",
    "series?by=x%27%3B--",
    "series?from=%3Cimg%20src=x%3E",
    "top",
    "top?dimension=origin&n=x",
    "user",
    "user?cookie=a&limit=-1",
    "dead-letters?from=x",
    "where?partition=9&offset=0",
    "where?cookie=a&time=x",
    "series?format=x",
    f"series?origin={'x' * 4_000}",
)


def raising(error: BaseException) -> Callable[..., Any]:
    async def broken(*arguments: Any, **named: Any) -> Any:
        raise error

    return broken


class FakeApp:
    """The part of Faust's app that pages are declared on."""

    def __init__(self, application: web.Application) -> None:
        self._application = application
        self.stops = False
        self.conf = SimpleNamespace(canonical_url="http://127.0.0.1:6066")
        self.sensors = SimpleNamespace(on_web_request_start=lambda *_, **__: None, on_web_request_end=lambda *_, **__: None)

    def page(self, path: str, *, name: str) -> Callable[[Any], Any]:
        def declare(made: Any) -> Any:
            view = made(self, None)
            for method in view.get_methods():
                self._application.router.add_route(method, path, view.dispatch)
            return made

        return declare

    def timer(self, interval_s: float, *, name: str) -> Callable[[Any], Any]:
        return lambda tick: tick


@asynccontextmanager
async def pages() -> AsyncIterator[TestClient[Any, Any]]:
    """Serve a worker's pages of the dashboard, wrapped as they are there."""
    application = web.Application(middlewares=[errors_as_json])
    owners = SimpleNamespace(partitions=4, holds=lambda mine: True)
    tables = SimpleNamespace(stream=USER_TAGS, rows=object(), row_store=None)
    views = Views(cast("Any", tables), cast("Any", owners), WorkerMetrics())
    create_dashboard(FakeApp(application), views, load_settings({"TALLY_POSTGRES_DSN": "postgresql://u@127.0.0.1/d"}))
    async with TestClient(TestServer(application)) as client:
        yield client


async def code_of(response: ClientResponse) -> str:
    """Return the code of an error, which has the form of every error and tells nothing of ours."""
    text = await response.text()
    error = msgspec.json.decode(text)["error"]
    assert set(error) == {"code", "message"}
    assert not INTERNALS.search(text)
    return str(error["code"])


def test_every_route_of_the_page_is_broken_here() -> None:
    """A route that is new belongs into the lists above."""
    source = Path(dashboard.__file__).read_text(encoding="utf-8")
    assert set(re.findall(r"\": dashboard\.(\w+),", source)) == set(ROUTES)
    assert re.findall(r"\"(\w+)\": (?:history|lambda)", source) == list(PEERS)


@pytest.mark.parametrize("method", ROUTES)
async def test_bug_in_a_route_is_a_500_that_says_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    """Whatever raises: the log has the trace, and the page a code."""
    monkeypatch.setattr(Dashboard, method, raising(RuntimeError(CANARY)))
    async with pages() as client:
        response = await client.get(f"{PATH}/{ROUTES[method]}")
        assert (response.status, await code_of(response)) == (500, "internal")
    assert CANARY in caplog.text and "Traceback" in caplog.text


@pytest.mark.parametrize("page", PEERS)
async def test_bug_behind_a_page_of_peers_is_a_500_that_says_nothing(monkeypatch: pytest.MonkeyPatch, page: str) -> None:
    """What a worker is told by another may come out in its own answer."""
    monkeypatch.setattr(*PEERS[page], raising(RuntimeError(CANARY)))
    async with pages() as client:
        response = await client.post(f"/internal/{page}", data=msgspec.msgpack.encode({"partitions": [0]}))
        assert (response.status, await code_of(response)) == (500, "internal")


@pytest.mark.parametrize("asked", ["series?source=postgres", "top?dimension=origin&source=postgres", "dead-letters"])
async def test_what_postgres_says_stays_with_us(monkeypatch: pytest.MonkeyPatch, asked: str) -> None:
    """Its messages name hosts, users, statements and values."""
    monkeypatch.setattr(Reports, "_ask", raising(psycopg.OperationalError(CANARY)))
    async with pages() as client:
        response = await client.get(f"{PATH}/{asked}")
        assert (response.status, await code_of(response)) == (503, "postgres_unavailable")
        assert response.headers["Content-Security-Policy"] and response.headers["Retry-After"]


async def test_bug_in_a_stream_that_has_begun_cuts_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its head is out: a second one in its middle would be taken for content, and an end in order for a whole stream."""
    monkeypatch.setattr(Dashboard, "_gather", raising(RuntimeError(CANARY)))
    async with pages() as client:
        response = await client.get(f"{PATH}/live")
        assert response.status == 200
        got = b""
        with pytest.raises(ClientPayloadError):
            async for chunk in response.content.iter_any():
                got += chunk
    assert got == b"retry: 2000\n\n"


@pytest.mark.parametrize("asked", WRONG)
async def test_wrong_question_is_a_400_in_one_sentence(asked: str) -> None:
    """It may repeat what was asked, to who asked, as text in JSON; never more."""
    async with pages() as client:
        response = await client.get(f"{PATH}/{asked}")
        assert (response.status, await code_of(response)) == (400, "bad_query")
        assert response.headers["Content-Type"].startswith("application/json")
        assert response.headers["X-Content-Type-Options"] == "nosniff"
