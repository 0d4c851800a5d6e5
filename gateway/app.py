"""Put the routes together: the hot one straight on ASGI, all others by Starlette, and every error as JSON."""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus

from starlette.applications import Starlette
from starlette.convertors import PathConvertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dashboard.files import PAGE, answer_file
from gateway import user_tags
from gateway.answers import CLOSE, Receive, Scope, Send, answer_error, error_body
from gateway.dashboard_data import DashboardData
from gateway.health import JSON, Health
from gateway.intake import Intake
from gateway.products import Products
from gateway.queries import Queries
from gateway.request_id import id_of, naming
from gateway.streams_through import StreamsThrough
from gateway.user_tags import UserTags
from gateway.workers import Workers
from streams.metrics import GatewayMetrics
from streams.request_id import answering
from streams.settings import Settings
from streams.topics import USER_TAGS

log = logging.getLogger(__name__)

EVENT_PATHS = "/user_tags, /v1/events, /v1/beacon, /analytics"
QUERY_PATHS = "/user_profiles/{cookie}, /aggregates, /event, /v1/timelines/{user}, /v1/aggregates"
HINTS = {404: f"paths: {EVENT_PATHS}; {QUERY_PATHS}; /dashboard, /health, /live, /ready, /metrics"}


class AnyText(PathConvertor):
    """The rest of a path, line breaks included: a cookie is any text."""

    regex = "(?s:.*)"


register_url_convertor("any_text", AnyText())


class App:
    """The ASGI application."""

    def __init__(
        self, intake: Intake, products: Products, workers: Workers, metrics: GatewayMetrics, settings: Settings
    ) -> None:
        self._intake, self._products, self._workers = intake, products, workers
        self._product_routes = products.routes
        self.user_tags = UserTags(USER_TAGS, intake, metrics, settings)
        self.health = health = Health([intake, *products.intakes], workers, metrics)
        self.live_streams = StreamsThrough(workers, metrics, settings)
        self._data = DashboardData(workers, metrics, settings)
        self._rest = Starlette(
            routes=[
                Route(user_tags.PATH, self.user_tags, methods=["POST"]),
                Route("/user_profiles/{cookie:any_text}", Queries("user_profiles", workers, metrics, settings), methods=QUERY),
                Route("/aggregates", Queries("aggregates", workers, metrics, settings), methods=QUERY),
                Route("/v1/timelines/{user:any_text}", Queries("v1/timelines", workers, metrics, settings), methods=QUERY),
                Route("/v1/aggregates", Queries("v1/aggregates", workers, metrics, settings), methods=QUERY),
                Route("/event", Queries("event", workers, metrics, settings), methods=QUERY),
                Route("/v1/event", Queries("v1/event", workers, metrics, settings), methods=QUERY),
                Route("/dashboard/api/live", self.live_streams, methods=["GET"]),
                Route("/dashboard/api/{rest:path}", self._data, methods=["GET"]),
                Route("/dashboard", answer_page),
                Route("/dashboard/assets/{file}", answer_page),
                Route("/health", health.ready),
                Route("/ready", health.ready),
                Route("/live", health.live),
                Route("/metrics", health.metrics),
            ],
            exception_handlers={HTTPException: answer_http_error, Exception: answer_bug},
        )
        self._rest.router.redirect_slashes = False

    async def flush(self, grace_s: float) -> None:
        """Send what waits for Kafka; what it has not taken after *grace_s* is refused."""
        await asyncio.gather(self._intake.flush(grace_s), self._products.flush(grace_s))

    async def aclose(self) -> None:
        """Close the connections to workers and key servers."""
        await self.live_streams.close()
        await self._data.close()
        await self._workers.close()
        await self._products.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_event = scope["path"] == user_tags.PATH and scope["method"] == "POST"
        try:
            if is_event:
                await self.user_tags(scope, receive, send)
            elif (route := self._product_routes.get(scope["path"])) is not None:
                await route(scope, receive, send)
            else:
                await self._answer_rest(scope, receive, send)
        except Exception as error:  # The one place that keeps a bug from the client's eyes.
            request_id = (id_of(scope["headers"]) or b"").decode()
            extra = {"method": scope["method"], "request_id": request_id}
            log.exception("a request failed: %s", type(error).__name__, extra=extra)
            if is_event or scope["path"] in self._product_routes:
                # Starlette has answered all others, by `answer_bug`, and raises nevertheless.
                await answer_error(send, 500, BUG, [CLOSE])

    async def _answer_rest(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer what is no event; a request that has an id takes it along to the workers that it asks."""
        request_id = id_of(scope["headers"])
        if request_id is None:
            await self._rest(scope, receive, send)
            return
        with answering(request_id.decode()):
            await self._rest(scope, receive, naming(send, request_id))


QUERY = ("GET", "POST")
BUG = error_body("bug", "the gateway failed on this request")


async def answer_page(request: Request) -> Response:
    """Answer the dashboard page, or a file of it."""
    found = answer_file(request.path_params.get("file", PAGE), request.headers)
    if found is None:
        raise HTTPException(404)
    return Response(found.body, found.status, found.headers)


async def answer_bug(request: Request, error: Exception) -> Response:
    """Answer a request on which a route failed."""
    return Response(BUG, status_code=500, media_type=JSON, headers={"connection": "close"})


async def answer_http_error(request: Request, error: Exception) -> Response:
    """Answer an unknown path or a wrong method in our form; OPTIONS asks for the methods and is no error."""
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if "Allow" in headers:
        headers["Allow"] = ", ".join(sorted({*headers["Allow"].split(", "), "OPTIONS"}))
        if request.method == "OPTIONS":
            return Response(status_code=204, headers=headers)
    status = HTTPStatus(error.status_code)
    body = error_body(status.name.lower(), status.phrase.lower(), HINTS.get(error.status_code))
    return Response(body, status_code=error.status_code, media_type=JSON, headers=headers)
