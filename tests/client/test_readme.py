"""What the README of the package shows runs, as it stands there, and what it lists is all there is."""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from tally_client import Options
from tally_client.labs import LabsClient

from tests.client.labs_server import LabsServer, labs_server
from tests.client.recording import Recorder
from tests.tidy.tree import ROOT

CLIENT = ROOT / "client"
TEXT = (CLIENT / "README.md").read_text(encoding="utf-8")
THREADS, ASYNCIO, LABS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
SERVER = "https://tally.example"


@pytest.fixture
def live() -> Iterator[Recorder]:
    with Recorder() as recorder:
        yield recorder


@pytest.mark.parametrize(("snippet", "authorization"), [(THREADS, "ApiKey an-api-key"), (ASYNCIO, "Bearer a-token")])
async def test_its_first_lines_send_an_event(snippet: str, authorization: str, live: Recorder) -> None:
    """By both clients; only the server's name is another."""
    assert SERVER in snippet
    code = compile(snippet.replace(SERVER, live.url), "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    running = eval(code, {"token": "a-token"})
    if inspect.isawaitable(running):
        await running
    ((seen,), (event,)) = live.seen, live.events
    assert (event["type"], event["user_id"], event["properties"]) == ("page_viewed", "user-17", {"page": "/home"})
    assert seen.headers["authorization"] == authorization


class ModelViewSet:
    """What a view set of a framework is to a recorder."""

    action = "list"

    def dispatch(self, request: SimpleNamespace) -> SimpleNamespace:
        return SimpleNamespace(status_code=200, is_empty=request.is_empty)


@pytest.fixture
def labs(monkeypatch: pytest.MonkeyPatch) -> Iterator[LabsServer]:
    """A server of Labs that the environment names, as the README says."""
    with labs_server() as server:
        for name in ("ANALYTICS_URL", "PLATFORM_URL"):
            monkeypatch.setenv(name, server.url)
        for name in ("CLIENT_ID", "CLIENT_SECRET"):
            monkeypatch.setenv(name, "clubs")
        yield server


def test_its_recorders_record(labs: LabsServer) -> None:
    """P17: views by `<app>.<view>.<name>.<method>`, functions by `<module>.<qualname>.<name>`, the rest as it is."""
    names: dict[str, Any] = {
        "__name__": "clubs", "ModelViewSet": ModelViewSet, "is_empty": lambda request, response: response.is_empty,
    }  # fmt: skip
    exec(compile(LABS, "README.md", "exec"), names)
    user = SimpleNamespace(username="judtin")
    for is_empty in (False, True):
        match = SimpleNamespace(view_name="clubs:club-list")
        names["Clubs"]().dispatch(SimpleNamespace(method="GET", user=user, resolver_match=match, is_empty=is_empty))
    names["hours_used"](user, "gsr")
    client: LabsClient = names["analytics"].client
    assert client.flush()
    client.close()
    sent = sorted((txn["pennkey"], txn["product"], *(each["key"] for each in txn["data"])) for txn in transactions(labs))
    view = ("clubs.club_list.get", "clubs.club_list.time.get")
    assert sent == [
        ("judtin", 10, *view),
        ("judtin", 10, *view, "clubs.club_list.empty.get"),
        ("judtin", 10, "clubs.hours_used.hours"),
        ("judtin", 10, "user.click"),
    ]


def transactions(labs: LabsServer) -> list[dict[str, Any]]:
    return [json.loads(asked.body) for asked in labs.posted()]


def test_it_lists_every_code() -> None:
    """Who handles `on_error` by its code has no other list."""
    calls = r'(?:failed|InvalidEventError|_fail|_abandon)\((?:[^")]*\(\)|[^")])*?"([a-z_]+)"|return "(closed|queue_full)"'
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (CLIENT / "tally_client").glob("*.py"))
    codes = {code for found in re.findall(calls, sources) for code in found if code} - {"failed"}
    assert len(codes) > 10
    assert sorted(code for code in codes if f"`{code}`" not in TEXT) == []


def test_its_options_are_options() -> None:
    """Each `Options(…)` in it is one, with the values that it names; so is each word that it gives a default for."""
    for arguments in re.findall(r"`Options\((.*?)\)`", TEXT):
        assert eval(f"Options({arguments})", {"Options": Options})
    defaults = re.findall(r"`([a-z_]+_max)` \(([0-9,]+)( MB)?\)", TEXT)
    assert len(defaults) >= 2
    for name, number, unit in defaults:
        assert getattr(Options(), name) == int(number.replace(",", "")) * (1_000_000 if unit else 1)
