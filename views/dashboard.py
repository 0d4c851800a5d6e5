"""The data of the dashboard page: every route under `/dashboard/api`, and what workers ask each other for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import msgspec
from aiohttp import web

from dashboard.files import SECURITY_HEADERS
from streams.clock import SYSTEM_CLOCK
from streams.rollups import TooManyDimensionsError
from streams.settings import Settings
from tables.profiles import Row
from views import profiles
from views.dashboard_answers import Answer, series_table, top_table
from views.dashboard_csv import CONTENT_TYPE, file_name, render_csv
from views.dashboard_history import History
from views.dashboard_letters import letters, letters_table
from views.dashboard_live import PEER_TIMEOUT_S, LiveStreams, LookAround, tell
from views.dashboard_postgres import PostgresUnavailableError, Reports
from views.dashboard_pulse import LOOK_INTERVAL_S, Pulse
from views.dashboard_queries import Form, parse_letters, parse_series, parse_top, parse_user, parse_where
from views.dashboard_sinks import SinksState
from views.dashboard_where import Whereabouts
from views.queries import ProfileQuery
from views.web import Handler, Views, add_page, error_answer, json_answer

PATH = "/dashboard/api"
HEADERS = {**SECURITY_HEADERS, "Cache-Control": "no-store"}
ALWAYS_MS = (0, 1 << 62)
_msgpack = msgspec.msgpack.Encoder().encode
Peer = Callable[[dict[str, Any], list[int]], Awaitable[Any]]


class Dashboard:
    """What the routes of the page need."""

    def __init__(self, app: Any, views: Views, settings: Settings) -> None:
        self._views = views
        self._stream = views.tables.stream
        self._settings = settings
        self.pulse = Pulse(views.tables, views.metrics, SYSTEM_CLOCK)
        self.reports = Reports(settings.postgres.dsn, statement_timeout_s=settings.dashboard.statement_timeout_s)
        horizon_s = settings.worker.horizon_s
        self.history = History(views.owners, self.pulse, self.reports, horizon_s=horizon_s, clock=SYSTEM_CLOCK)
        self._sinks = SinksState(settings, lambda: app.http_client, SYSTEM_CLOCK)
        self._around = LookAround(self._gather, SYSTEM_CLOCK)
        streams_max = settings.dashboard.streams_max
        self._streams = LiveStreams(self._around, streams_max=streams_max, stops=lambda: app.stops)
        self._whereabouts = Whereabouts(settings, lambda: str(app.conf.canonical_url))

    async def _gather(self) -> dict[str, Any]:
        asked = self._views.owners.ask_some("internal/pulse", {}, self.pulse.answer, timeout_s=PEER_TIMEOUT_S)
        parts, sinks = await asyncio.gather(asked, self._sinks.newest())
        return tell(parts, sinks, now_ms=SYSTEM_CLOCK.now_ms())

    async def live(self, request: web.Request) -> web.StreamResponse:
        """Send how everything is, each second."""
        if self._streams.is_full:
            refused = error_answer(503, "too_many_streams", "as many live streams are open as may be: ask /dashboard/api/now")
            refused.headers.update(HEADERS)
            return refused
        return await self._streams.answer(request, HEADERS)

    async def now(self, request: web.Request) -> web.StreamResponse:
        """Answer how everything is."""
        return json_answer((await self._around.newest()).answer)

    async def series(self, request: web.Request) -> web.StreamResponse:
        """Answer points over time."""
        query = parse_series(self._stream, request.rel_url.raw_query_string, now_s=self.history.now_s)
        answer = await self.history.series(query)
        return _written(query.form, answer, lambda: series_table(answer, by=query.by), "series", answer["from"])

    async def top(self, request: web.Request) -> web.StreamResponse:
        """Answer the values of a dimension that count most."""
        query = parse_top(self._stream, request.rel_url.raw_query_string, now_s=self.history.now_s)
        answer = await self.history.top(query)
        return _written(query.form, answer, lambda: top_table(answer), f"top-{query.by}", answer["from"])

    async def user(self, request: web.Request) -> web.StreamResponse:
        """Answer the newest events of one user, as the profile has them."""
        query = parse_user(self._stream, request.rel_url.raw_query_string)
        if self._views.tables.rows is None:
            return error_answer(404, "profiles_off", "this installation keeps no profiles")
        owners = self._views.owners
        asked = owners.partitions_of(query.user)
        here = partial(self._views.rows_here, query.user)
        parts = await owners.ask("internal/profiles", asked, {"user": query.user}, here)
        rows = [Row._make((*row[:-1], tuple(row[-1]))) for part in parts for row in part]
        profile = ProfileQuery(query.user, *ALWAYS_MS, query.limit)
        answer = profiles.format_answer(self._views.codec, profile, rows)
        return _written(query.form, answer, lambda: self._user_table(answer), "user", "events")

    def _user_table(self, answer: Answer) -> tuple[Sequence[str], list[list[Any]]]:
        stream = self._stream
        paths = (stream.time, stream.kind, *stream.kept)
        events = [event for plural in profiles.PLURALS.values() for event in answer.get(plural, ())]
        return [path.rpartition(".")[2] for path in paths], [[_at(event, path) for path in paths] for event in events]

    async def dead_letters(self, request: web.Request) -> web.StreamResponse:
        """Answer dead letters by reason, and samples."""
        query = parse_letters(request.rel_url.raw_query_string, now_s=self.history.now_s)
        answer = await self.reports.ask(partial(letters, query))
        table = partial(letters_table, answer, samples=query.samples)
        return _written(query.form, answer, table, "dead-letters", answer["from"])

    async def where(self, request: web.Request) -> web.StreamResponse:
        """Answer why an event is missing."""
        stream, query, time = parse_where(request.rel_url.raw_query_string, partitions=self._views.owners.partitions)
        return json_answer(await self._whereabouts.find(stream, query, time=time))

    async def dimensions(self, request: web.Request) -> web.StreamResponse:
        """Answer what can be asked for."""
        stream = self._stream
        return json_answer(
            {
                "stream": stream.topic,
                "kinds": list(stream.kinds),
                "dimensions": list(stream.dimensions),
                "sums": list(stream.sums),
                "horizon_s": self._settings.worker.horizon_s,
            }
        )

    def answer_peer(self, here: Peer) -> Handler:
        """Return a handler that answers another worker for the partitions that this one owns, or 503."""

        async def answer(request: web.Request) -> web.StreamResponse:
            asked = msgspec.msgpack.decode(await request.read())
            mine = asked["partitions"]
            if not self._views.owners.holds(mine):
                return error_answer(503, "not_owner", "this worker is not the ready owner of these partitions")
            told = {"answer": await here(asked, mine), "misrouted": profiles.is_misrouted(self._views.tables)}
            return web.Response(body=_msgpack(told), content_type="application/msgpack")

        return answer

    def page(self, name: str, handler: Handler) -> Handler:
        """Return a handler that tells what Postgres cannot, counts, and whose every answer carries the headers of the page."""

        async def tell_errors(request: web.Request) -> web.StreamResponse:
            try:
                return await handler(request)
            except PostgresUnavailableError as error:
                return error_answer(503, "postgres_unavailable", str(error))
            except TooManyDimensionsError as error:
                return error_answer(400, "bad_query", str(error))

        timed = self._views.timed(name, tell_errors, scope="whole")

        async def answer(request: web.Request) -> web.StreamResponse:
            response = await timed(request)
            response.headers.update(HEADERS)
            return response

        return answer


def create_dashboard(app: Any, views: Views, settings: Settings) -> None:
    """Declare the routes of the page's data."""
    dashboard = Dashboard(app, views, settings)
    pages = {
        "now": dashboard.now,
        "series": dashboard.series,
        "top": dashboard.top,
        "user": dashboard.user,
        "dead-letters": dashboard.dead_letters,
        "where": dashboard.where,
        "dimensions": dashboard.dimensions,
    }
    for name, handler in pages.items():
        add_page(app, f"{PATH}/{name}", dashboard.page(name, handler), {"get"})
    add_page(app, f"{PATH}/live", dashboard.live, {"get"})
    history, pulse = dashboard.history, dashboard.pulse
    peers: dict[str, Peer] = {
        "sums": history.sums_here,
        "series": history.series_here,
        "pulse": lambda fields, mine: pulse.answer(mine),
        "written": lambda fields, mine: pulse.written(mine),
    }
    for name, here in peers.items():
        add_page(app, f"/internal/{name}", views.timed(name, dashboard.answer_peer(here), scope="peer"), {"post"})

    @app.timer(LOOK_INTERVAL_S, name="pulse")
    async def look() -> None:
        """Remember how far this worker is."""
        pulse.look()


def _written(
    form: Form, answer: Answer, table: Callable[[], tuple[Sequence[str], list[list[Any]]]], *name: str
) -> web.StreamResponse:
    """Return an answer as JSON, or its table as CSV to be saved."""
    if form is Form.JSON:
        return json_answer(answer)
    heading, rows = table()
    headers = {"Content-Type": CONTENT_TYPE, "Content-Disposition": f'attachment; filename="{file_name("tally", *name)}"'}
    return web.Response(body=render_csv(heading, rows), headers=headers)


def _at(event: Any, path: str) -> Any:
    for name in path.split("."):
        event = event[name]
    return event
