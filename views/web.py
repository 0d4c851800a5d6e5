"""The web views of a worker: queries for everybody, the same between workers, health and metrics."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any

import msgspec
from aiohttp import web
from faust.web import View

from dashboard.files import PAGE, answer_file
from streams.errors import IncompleteAnswerError
from streams.metrics import CONTENT_TYPE, WorkerMetrics
from streams.request_id import HEADER, answering
from streams.topics import USER_TAGS
from tables.profiles import Row, RowCodec
from tables.registry import StreamTables
from views import aggregates, events, profiles, timelines
from views.owners import Owners
from views.queries import (
    AggregatesQuery,
    BadQueryError,
    EventAt,
    EventOf,
    parse_aggregates,
    parse_event,
    parse_profile,
    parse_timeline,
)

log = logging.getLogger(__name__)

RETRY_AFTER_S = 1
LOOK_ROUND_S = 5.0
_json = msgspec.json.Encoder().encode
_msgpack = msgspec.msgpack.Encoder().encode
Handler = Callable[[Any], Awaitable[web.StreamResponse]]


class Views:
    """What the handlers need: the tables of a stream, and who owns which part of them."""

    def __init__(self, tables: StreamTables, owners: Owners, metrics: WorkerMetrics) -> None:
        self.tables = tables
        self.owners = owners
        self.metrics = metrics
        self.codec = RowCodec(tables.stream)

    async def totals_here(self, query: AggregatesQuery, partitions: list[int]) -> aggregates.Totals:
        """Return the totals of partitions that this worker owns."""
        return aggregates.merge(aggregates.partition_totals(self.tables, partition, query) for partition in partitions)

    async def rows_here(self, user: str, partitions: list[int]) -> list[Row]:
        """Return the rows of a user in partitions that this worker owns."""
        return [row for partition in partitions for row in profiles.partition_rows(self.tables, self.codec, partition, user)]

    async def answer_aggregates(self, request: web.Request) -> web.StreamResponse:
        text, all_kinds = request.rel_url.raw_query_string, self.tables.stream.topic != USER_TAGS.topic
        query = parse_aggregates(self.tables.stream, text, all_kinds=all_kinds)
        partitions = range(self.owners.partitions)
        fields = {"start": query.start, "end": query.end, "filters": dict(query.filters)}
        path = f"{self.owners.internal}/aggregates"
        parts = await self.owners.ask(path, partitions, fields, lambda mine: self.totals_here(query, mine))
        return json_answer(aggregates.format_answer(self.tables.stream, query, aggregates.merge(parts)))

    async def answer_profile(self, request: web.Request) -> web.StreamResponse:
        user = request.match_info["user"]
        query = parse_profile(self.tables.stream, user, request.rel_url.raw_query_string)
        if self.tables.rows is None:
            return error_answer(404, "profiles_off", "this installation keeps no profiles")
        asked = self.owners.partitions_of(user)
        parts = await self.owners.ask("internal/profiles", asked, {"user": user}, lambda mine: self.rows_here(user, mine))
        rows = [Row._make((*row[:-1], tuple(row[-1]))) for part in parts for row in part]
        return json_answer(profiles.format_answer(self.codec, query, rows))

    async def timeline_here(self, user: str, partitions: list[int]) -> list[timelines.Timeline]:
        """Return the timelines of a user in partitions that this worker owns."""
        return [timelines.partition_timeline(self.tables, self.codec, partition, user) for partition in partitions]

    async def answer_timeline(self, request: web.Request) -> web.StreamResponse:
        """Answer the newest submissions of a user."""
        user = request.match_info["user"]
        query = parse_timeline(user, request.rel_url.raw_query_string)
        asked, path = self.owners.partitions_of(user), f"{self.owners.internal}/timelines"
        parts = await self.owners.ask(path, asked, {"user": user}, lambda mine: self.timeline_here(user, mine))
        found = [([Row._make((*row[:-1], tuple(row[-1]))) for row in rows], whole) for part in parts for rows, whole in part]
        return json_answer(timelines.format_timeline(self.codec, query, found))

    async def event_here(self, query: EventAt | EventOf, partitions: list[int]) -> list[events.Found]:
        """Return what partitions that this worker owns know of an event."""
        if isinstance(query, EventAt):
            return [await events.find_at(self.tables, query)]
        return events.find_of(self.tables, self.codec, query, partitions)

    async def answer_event(self, request: web.Request) -> web.StreamResponse:
        """Say where an event is."""
        query = parse_event(self.tables.stream, request.rel_url.raw_query_string, partitions=self.owners.partitions)
        if isinstance(query, EventOf) and self.tables.rows is None:
            return error_answer(404, "profiles_off", "this installation keeps no profiles: ask by partition and offset")
        asked = [query.partition] if isinstance(query, EventAt) else self.owners.partitions_of(query.user)
        path = f"{self.owners.internal}/event"
        parts = await self.owners.ask(path, asked, asdict(query), lambda mine: self.event_here(query, mine))
        found = [each for part in parts for each in part]
        return json_answer(events.format_at(query, found[0]) if isinstance(query, EventAt) else events.format_of(query, found))

    async def answer_peer(self, request: web.Request) -> web.StreamResponse:
        """Answer another worker for the partitions that this one owns, or 503."""
        asked = msgspec.msgpack.decode(await request.read())
        mine = asked["partitions"]
        if not self.owners.holds(mine):
            return error_answer(503, "not_owner", "this worker is not the ready owner of these partitions")
        answer: Any = None
        if request.path.endswith("aggregates"):
            query = AggregatesQuery(asked["start"], asked["end"], asked["filters"], ())
            answer = await self.totals_here(query, mine)
        elif request.path.endswith("profiles"):
            answer = await self.rows_here(asked["user"], mine)
        elif request.path.endswith("timelines"):
            answer = await self.timeline_here(asked["user"], mine)
        elif request.path.endswith("event"):
            at = EventAt(mine[0], asked["offset"]) if "offset" in asked else EventOf(asked["user"], asked["at_ms"])
            answer = await self.event_here(at, mine)
        misrouted = profiles.is_misrouted(self.tables)
        return web.Response(body=_msgpack({"answer": answer, "misrouted": misrouted}), content_type="application/msgpack")

    async def ready(self, request: web.Request) -> web.StreamResponse:
        """Say 200 when recovered, not rebalancing, and not asked to stop; a worker that stops answers its peers on."""
        app = self.tables.blocks.app
        if app.stops:
            return json_answer({"ready": False, "reason": "stopping"}, status=503)
        if self.owners.is_ready():
            return json_answer({"ready": True, "partitions": self.tables.block_store.owned()})
        reason = "rebalancing" if app.rebalancing else "recovering the tables"
        return json_answer({"ready": False, "reason": reason}, status=503)

    async def live(self, request: web.Request) -> web.StreamResponse:
        """Say 200 as long as the event loop turns."""
        return json_answer({"live": True})

    async def show_metrics(self, request: web.Request) -> web.StreamResponse:
        """Return Prometheus text."""
        return web.Response(body=self.metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    def timed(self, query: str, handler: Handler, *, scope: str) -> Handler:
        """Return a handler that answers every error in JSON, and counts."""

        async def answer(request: web.Request) -> web.StreamResponse:
            started_s, status = time.perf_counter(), 500
            try:
                response = await answer_expected(handler, request)
                status = response.status
                return response
            finally:
                if status != 200:
                    self.metrics.query_errors.labels(query, status).inc()
                self.metrics.query_seconds.labels(query, scope).observe(time.perf_counter() - started_s)

        return answer


async def answer_expected(handler: Handler, request: web.Request) -> web.StreamResponse:
    """Return what a handler answers, or the error that it raises for a client to read; any other is a bug, and is raised."""
    try:
        return await handler(request)
    except BadQueryError as error:
        return error_answer(400, "bad_query", str(error))
    except IncompleteAnswerError as error:
        return error_answer(503, "incomplete", str(error))


def create_tag_views(app: Any, views: Views) -> None:
    """Declare the queries of `user-tags.v1`."""
    add_page(app, "/aggregates", views.timed("aggregates", views.answer_aggregates, scope="whole"), {"get", "post"})
    add_page(app, r"/user_profiles/{user:[^/]*}", views.timed("profile", views.answer_profile, scope="whole"), {"get", "post"})
    add_page(app, "/event", views.timed("event", views.answer_event, scope="whole"), {"get", "post"})
    add_peer_pages(app, views, ("aggregates", "profiles", "event", "look"))


def create_event_views(app: Any, views: Views) -> None:
    """Declare the queries of `events.v1`."""
    path, both = views.tables.stream.path, {"get", "post"}
    add_page(app, f"{path}/aggregates", views.timed("event_aggregates", views.answer_aggregates, scope="whole"), both)
    timeline = views.timed("timeline", views.answer_timeline, scope="whole")
    add_page(app, path + r"/timelines/{user:[^/]*}", timeline, both)
    add_page(app, f"{path}/event", views.timed("event", views.answer_event, scope="whole"), both)
    add_peer_pages(app, views, ("aggregates", "timelines", "event", "look"))


def add_peer_pages(app: Any, views: Views, names: Iterable[str]) -> None:
    """Declare what workers ask each other about a stream."""
    for name in names:
        add_page(app, f"/{views.owners.internal}/{name}", views.timed(name, views.answer_peer, scope="peer"), {"post"})


def create_views(app: Any, of_streams: Sequence[Views]) -> None:
    """Declare the pages that a worker has once, and the look round for each stream."""
    views = of_streams[0]
    add_page(app, "/dashboard", answer_page, {"get"})
    add_page(app, r"/dashboard/assets/{file:[^/]+}", answer_page, {"get"})
    add_page(app, "/live", views.live, {"get"})
    add_page(app, "/ready", views.ready, {"get"})
    add_page(app, "/metrics", views.show_metrics, {"get"})

    @app.timer(LOOK_ROUND_S, name="look-round")
    async def look_round() -> None:
        """Learn whether another worker has seen a producer that partitions otherwise."""
        for each in of_streams:
            await each.owners.look_round()


def add_page(app: Any, path: str, handler: Handler, methods: set[str]) -> None:
    async def page(self: Any, request: web.Request, **_: Any) -> web.StreamResponse:
        return await handler(request)

    name = "page-" + path.strip("/").replace("/", "-")
    app.page(path, name=name)(type(name, (View,), dict.fromkeys(methods, page)))


async def answer_page(request: web.Request) -> web.StreamResponse:
    """Answer the dashboard page, or a file of it."""
    found = answer_file(request.match_info.get("file", PAGE), request.headers)
    if found is None:
        raise web.HTTPNotFound
    return web.Response(body=found.body, status=found.status, headers=found.headers)


def json_answer(value: Any, *, status: int = 200) -> web.Response:
    """Return a JSON answer."""
    return web.Response(body=_json(value), status=status, content_type="application/json")


def error_answer(status: int, code: str, message: str) -> web.Response:
    """Return an error in the form of every error: code and message, no trace, no payload."""
    response = json_answer({"error": {"code": code, "message": message}}, status=status)
    if status == 503:
        response.headers["Retry-After"] = str(RETRY_AFTER_S)
    return response


@web.middleware
async def with_request_id(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer within the id that the request brings, from the gateway or from another worker; the first of the middlewares."""
    with answering(request.headers.get(HEADER, "")):
        return await handler(request)


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer unknown paths, wrong methods and our own failures in JSON."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        response = error_answer(error.status, error.reason.lower().replace(" ", "_"), f"{request.method} {error.reason}")
        if "Allow" in error.headers:
            response.headers["Allow"] = error.headers["Allow"]
        return response
    except Exception:
        log.exception("a view failed on %s", request.path)
        if request.writer.output_size and request.transport is not None:
            request.transport.abort()  # a stream has begun: a second head would be taken for content, and the reader would wait
        return error_answer(500, "internal", "the view failed; the worker's log says why")
