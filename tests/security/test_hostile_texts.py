"""Texts of the attacker are data to SQL, to errors, to logs and to metrics; nothing is built from them."""

from __future__ import annotations

import ast
import asyncio
import re
from collections.abc import Iterator
from contextlib import closing
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from starlette.routing import Route

from gateway.app import App
from gateway.intake import Intake
from gateway.products import Products
from gateway.workers import Workers
from streams.metrics import GatewayMetrics
from streams.settings import Settings
from streams.topics import USER_TAGS
from tests.security.conftest import Job
from tests.support.builders import a_record, a_user_tag
from tests.support.eventually import eventually
from tests.support.gateway_process import running_gateway
from tests.support.job import ALWAYS, Door, send_all
from tests.support.sinks_process import select
from tests.tidy.tree import ROOT, source_files, tree_of

HOSTILE = (
    "'", '"', "';--", "' OR '1'='1", "'; DROP TABLE tally.user_events; --", "\\", "\\'", "%s", "%(user)s", "%%", "$1", "{0}",
    "\n2026 ERROR root forged\r\n", "\x1b[31m", "\u202e", "🍪", "ż", "NULL", "\\N", "\t", "<img src=x onerror=f()>", "../x",
)  # fmt: skip
MINUTE = "2021-07-01T00:{:02}"
ORIGINS = 10_000
SCHEMA = ("sinks/migrations/", "sinks/migrate.py", "stack/postgres.py")
"""What makes the schema and the database has names of its own in its statements, before there is anybody to send a text."""
LOOKING_UP = {"getattr", "setattr", "eval", "exec", "compile", "__import__", "globals", "locals", "vars"}
EXECUTING = {"execute", "executemany", "copy"}


def test_every_dimension_takes_any_text_as_a_text(job: Job) -> None:
    """In each filter and as a cookie: the answer is the oracle's, and Postgres holds what was sent."""
    names = ("origin", "brand_id", "category_id")
    for number, text in enumerate(HOSTILE):
        time = MINUTE.format(number) + ":30.000Z"
        job.door.send(a_user_tag(cookie=text, time=time, price=number, **dict.fromkeys(names, text)))
    for number, text in enumerate(HOSTILE):
        start = MINUTE.format(number)
        for name in names:
            eventually(
                lambda start=start, name=name, text=text: (
                    rows_of(job.door, start, {name: text})  # type: ignore[misc]
                    == [[f"{start}:00", "VIEW", text, "1"]]
                ),
                what=f"{name} of {text!r}",
            )
        views = job.door.profile(text).json["views"]
        assert [view["product_info"]["price"] for view in views if view["cookie"] == text] == [number]
    columns, days = "cookie, origin, brand_id, category_id", "'2021-07-01' AND '2021-08-01'"
    statement = f"SELECT {columns} FROM tally.user_events WHERE occurred_at BETWEEN {days} ORDER BY price"
    eventually(
        lambda: select(job.dsn, statement) == [(text,) * 4 for text in HOSTILE], within_s=60, what="the same texts in Postgres"
    )
    assert not re.search(r" ERROR ", job.sinks.log.read_text())


def rows_of(door: Door, start: str, filters: dict[str, str]) -> Any:
    return door.aggregates(start, 1, ["COUNT"], {"action": "VIEW", **filters}).json.get("rows")


def test_names_of_parameters_are_a_closed_set(job: Job) -> None:
    """A parameter that is not understood is a 400 in one sentence of JSON, which may repeat it to who sent it."""
    for name in ("aggregates", "action", "time_range"):
        fields = {"time_range": "2021-07-01T00:00:00_2021-07-01T00:01:00", "action": "VIEW", "aggregates": "COUNT"}
        for text in HOSTILE:
            answer = job.door.ask("GET", f"/aggregates?{urlencode(fields | {name: 'x' + text})}")
            assert answer.error == "bad_query"


def test_a_text_that_no_event_can_hold_finds_nothing(job: Job) -> None:
    """NUL and half a character: what Postgres or UTF-8 could not take is told, or not found, and is no error of ours."""
    before = job.logs
    for text in ("%00", "a%00b", "%ed%a0%80", "%ff", "%c3"):
        fields = f"time_range=2021-07-01T00:00:00_2021-07-01T00:01:00&action=VIEW&aggregates=COUNT&origin={text}"
        asked = (
            f"/aggregates?{fields}",
            f"/user_profiles/{text}?time_range={ALWAYS}",
            f"/event?cookie={text}&time=2021-07-01T00:00:00Z",
            *(f"/dashboard/api/{path}{text}" for path in ("series?origin=", "user?cookie=", "dead-letters?reason=")),
        )
        assert {target: status for target in asked if (status := job.door.ask("GET", target).status) not in (200, 400)} == {}
    written = {name: log[len(before[name]) :] for name, log in job.logs.items()}
    assert {name: log for name, log in written.items() if " ERROR " in log} == {}


def test_no_text_of_a_request_names_what_is_called() -> None:
    """Routes are listed, and methods called by their names: nothing that answers looks up an attribute or runs a text."""
    found = {
        f"{path}:{node.lineno}"
        for path in source_files()
        if path.relative_to(ROOT).parts[0] in ("views", "gateway", "dashboard")
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in LOOKING_UP
        if not (node.func.id == "getattr" and isinstance(node.args[1], ast.Constant))
    }
    assert found == set()


def calls(names: set[str]) -> Iterator[tuple[str, list[ast.expr]]]:
    """Yield where something of these names is called, and what the first argument is, or may be where it is a name."""
    for path in source_files():
        nodes = list(ast.walk(tree_of(path)))
        given = [(ast.unparse(target), node.value) for node in nodes if isinstance(node, ast.Assign) for target in node.targets]
        for node in nodes:
            if isinstance(node, ast.Call) and node.args and ast.unparse(node.func).rpartition(".")[2] in names:
                first = node.args[0]
                yield f"{path}:{node.lineno}", [first, *(value for name, value in given if name == ast.unparse(first))]


def is_built(statement: ast.expr) -> bool:
    """Say whether an expression puts a text together."""
    formats = isinstance(statement, ast.Call) and isinstance(statement.func, ast.Attribute) and statement.func.attr == "format"
    return formats or isinstance(statement, ast.JoinedStr | ast.BinOp)


def test_no_statement_is_put_together_from_texts() -> None:
    """SQL comes from files, with names quoted and values as parameters: no f-string, `+`, `%` or format is ever executed."""
    found = dict(calls(EXECUTING))
    assert len(found) > 20
    built = {place for place, statements in found.items() if any(map(is_built, statements))}
    assert {place for place in built if not any(name in place for name in SCHEMA)} == set()


def test_parts_of_statements_stand_in_the_source() -> None:
    """What is put into one without quotes is written there as a text; but for the one place that reads the files."""
    found = dict(calls({"SQL"}))
    assert len(found) > 10
    others = {place for place, texts in found.items() if not all(isinstance(text, ast.Constant) for text in texts)}
    assert {place.rpartition(":")[0] for place in others} == {str(ROOT / "streams" / "statements.py")}


INTERNALS = rb"Traceback|File \"|\.py|msgspec|pydantic|starlette|aiohttp"
ASKED_OF_THE_PAGE = (
    "series?canary=canary",
    "series?from=canary",
    "top?dimension=canary",
    "user?cookie=canary&limit=canary",
    "dead-letters?from=canary",
    "where?partition=canary&offset=canary",
)


def test_errors_hold_neither_payload_nor_internals(job: Job) -> None:
    """Each path, with a canary in every place that a sender fills; a query may have its own parameter repeated, in JSON."""
    bodies = [
        b"canary",
        b'{"canary":',
        a_record(action="canary"),
        a_record(time="canary"),
        a_record(price="canary"),
        b"\xff canary",
    ]
    asked = [
        *(job.door.ask("POST", "/user_tags", body) for body in bodies),
        *(
            job.door.ask(method, f"/{path}")
            for method in ("GET", "PUT", "DELETE")
            for path in ("canary", "user_tags", "metrics/canary")
        ),
        job.door.ask("GET", "/user_profiles/canary?time_range=canary&limit=canary"),
        job.door.ask("GET", "/aggregates?canary=canary"),
        job.door.ask("GET", "/event?partition=canary&offset=canary"),
        job.door.ask("GET", "/event?cookie=canary&time=canary"),
        *(job.door.ask("GET", f"/dashboard/{path}") for path in ("canary", "assets/canary", "api/canary", "api/live/canary")),
        *(job.door.ask("GET", f"/dashboard/api/{asked}") for asked in ASKED_OF_THE_PAGE),
        *(job.door.ask("POST", f"/dashboard/api/{name}", b"canary") for name in ("live", "now", "series")),
    ]
    assert not any(b"canary" in answer.body for answer in asked[: len(bodies)])
    for answer in asked:
        assert 400 <= answer.status < 500
        assert answer.error
        assert not re.search(INTERNALS, answer.body)


REFUSED_OF_PRODUCTS = (
    b"canary",
    b'{"canary":',
    b"\xff canary",
    b'["canary"]',
    b'{"event_id": "canary", "time": "canary", "type": {"canary": 1}}',
    b'{"product": "canary", "pennkey": ["canary"], "timestamp": "canary", "data": [{"key": "canary", "value": 1}]}',
)


@pytest.mark.parametrize("path", ["/v1/events", "/v1/beacon", "/analytics"])
def test_refusals_of_products_hold_neither_payload_nor_internals(job: Job, path: str) -> None:
    """What is wrong is told by the names of our fields, and never by what stood in them; a beacon is told nothing."""
    for body in REFUSED_OF_PRODUCTS:
        answer = job.door.ask("POST", path, body, headers={"Content-Type": "application/json"})
        assert answer.status in ((204,) if path == "/v1/beacon" else (400, 422))
        assert not re.search(rb"canary|" + INTERNALS, answer.body), answer.body


async def broken(scope: Any, receive: Any, send: Any) -> None:
    raise RuntimeError("canary: a secret of ours")


async def answer_of(app: App, method: str, path: str) -> list[Any]:
    """Return what the application sends."""
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "path": path, "raw_path": path.encode(), "method": method, "headers": [], "query_string": b""}
    await app(scope, receive, send)
    return sent


async def test_a_bug_in_any_route_is_a_500_that_says_nothing() -> None:
    """Whatever raises: the log has the trace, and the client a code."""
    settings, metrics = Settings(), GatewayMetrics()
    workers = Workers(settings)
    app = App(Intake(USER_TAGS, settings, metrics), Products(settings, metrics), workers, metrics, settings)
    paths = [("GET", path) for path in app._product_routes]
    app._product_routes = dict.fromkeys(app._product_routes, broken)
    app.user_tags = broken  # type: ignore[assignment]
    for route in app._rest.routes:
        assert isinstance(route, Route)
        paths.append(("GET" if "GET" in (route.methods or ()) else "POST", re.sub(r"{.+?}", "canary", route.path)))
        route.app = broken
    assert {("POST", "/user_tags"), ("GET", "/v1/events"), ("GET", "/v1/timelines/canary")} < set(paths)
    try:
        for method, path in paths:
            head, body = await answer_of(app, method, path)
            assert head["status"] == 500, path
            assert b'"code":"bug"' in body["body"] and b"canary" not in body["body"]
    finally:
        await app.aclose()
        await workers.close()


def series_of(job: Job) -> dict[str, int]:
    """Return how many series each process shows."""
    ports = {"gateway": job.gateway.port, "sinks": job.sinks.port}
    ports |= {f"worker {worker.index}": worker.port for worker in job.workers}
    found = {}
    for name, port in ports.items():
        with closing(Door(port)) as door:
            lines = door.ask("GET", "/metrics").body.decode().splitlines()
        found[name] = sum(1 for line in lines if line and not line.startswith("#"))
    return found


def test_ten_thousand_origins_make_no_series(job: Job) -> None:
    """A label of the attacker's choice would fill Prometheus; no user's text is one."""
    bodies = [
        a_record(cookie=f"series-{number % 50}", origin=f"origin {number}", time="2021-06-01T00:00:00Z")
        for number in range(ORIGINS)
    ]
    asyncio.run(send_all(job.gateway.port, bodies[:100]))
    warm = ("2021-06-01T00:00", 1, ["COUNT"], {"action": "VIEW"})
    eventually(lambda: job.door.aggregates(*warm).json.get("rows", [[""]])[0][-1] == "100", what="the first hundred counted")
    for text in HOSTILE:
        job.door.ask("GET", f"/{quote(text, safe='')}")
    before = series_of(job)
    asyncio.run(send_all(job.gateway.port, bodies[100:]))
    for number in range(200):
        job.door.ask("GET", f"/user_profiles/series-{number}?time_range=x")
        job.door.ask("GET", f"/unknown/{number}")
    eventually(lambda: job.door.aggregates(*warm).json["rows"][0][-1] == str(ORIGINS), within_s=60, what="all counted")
    after = series_of(job)
    grown = {name: (before[name], after[name]) for name in before if after[name] > before[name] + NEW_STATUSES}
    assert grown == {}


NEW_STATUSES = 60
"""Series of a status or route that is seen for the first time, with the buckets of its histogram; 10,000 would be far more."""


@pytest.mark.parametrize("text_format", [{}], ids=["default"])
def test_a_line_break_in_a_text_makes_one_line_of_log(job: Job, text_format: dict[str, str]) -> None:
    """Else whoever sends an event writes what the log says, as anybody."""
    settings = {
        "log_requests": "true",
        "log_headers": "true",
        "log_bodies": "true",
        "gateway_workers": job.workers[0].url,
        **text_format,
    }
    with running_gateway(job.servers, **settings) as gateway, closing(Door(gateway.port)) as door:
        eventually(lambda: door.ask("GET", "/ready").status == 200, what="a gateway that logs requests")
        forged = "\n2026-01-01 00:00:00 ERROR forged line\r\n"
        for body in (a_record(cookie=forged, origin=forged), forged.encode(), a_record(action=forged)):
            door.ask("POST", "/user_tags", body)
        door.ask("GET", f"/user_profiles/{quote(forged, safe='')}?time_range=x")
        door.ask("GET", f"/{quote(forged, safe='')}", headers={"X-Forged": "\x1b[31m forged \u0085".encode().decode("latin-1")})
        lines = gateway.read_log().splitlines()
    assert any("forged" in line for line in lines)
    assert [line for line in lines if line.startswith(("2026-01-01 00:00:00", "ERROR", "forged"))] == []
    assert not any(letter < " " and letter != "\t" for line in lines for letter in line)
