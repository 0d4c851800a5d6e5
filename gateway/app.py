"""Put the routes together: the hot one straight on ASGI, all others by Starlette, and every error as JSON."""

from __future__ import annotations

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
from gateway.queries import Queries
from gateway.request_id import id_of
from gateway.streams_through import StreamsThrough
from gateway.user_tags import UserTags
from gateway.workers import Workers
from streams.metrics import GatewayMetrics
from streams.settings import Settings
from streams.topics import USER_TAGS

log = logging.getLogger(__name__)

HINTS = {404: "paths: /user_tags, /user_profiles/{cookie}, /aggregates, /event, /dashboard, /health, /live, /ready, /metrics"}


class AnyText(PathConvertor):
    """The rest of a path, line breaks included: a cookie is any text."""

    regex = "(?s:.*)"


register_url_convertor("any_text", AnyText())


class App:
    """The ASGI application."""

    def __init__(self, intake: Intake, workers: Workers, metrics: GatewayMetrics, settings: Settings) -> None:
        self.user_tags = UserTags(USER_TAGS, intake, metrics, settings)
        self.health = health = Health(intake, workers, metrics)
        self.live_streams = StreamsThrough(workers, metrics, settings)
        self._data = DashboardData(workers, metrics, settings)
        self._rest = Starlette(
            routes=[
                Route(user_tags.PATH, self.user_tags, methods=["POST"]),
                Route("/user_profiles/{cookie:any_text}", Queries("user_profiles", workers, metrics, settings), methods=QUERY),
                Route("/aggregates", Queries("aggregates", workers, metrics, settings), methods=QUERY),
                Route("/event", Queries("event", workers, metrics, settings), methods=QUERY),
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

    async def aclose(self) -> None:
        """Close the connections to the workers that pages were answered over."""
        await self.live_streams.close()
        await self._data.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_event = scope["path"] == user_tags.PATH and scope["method"] == "POST"
        try:
            if is_event:
                await self.user_tags(scope, receive, send)
            else:
                await self._rest(scope, receive, send)
        except Exception as error:  # The one place that keeps a bug from the client's eyes.
            request_id = (id_of(scope["headers"]) or b"").decode()
            extra = {"method": scope["method"], "request_id": request_id}
            log.exception("a request failed: %s", type(error).__name__, extra=extra)
            if is_event:  # Starlette has answered all others, by `answer_bug`, and raises nevertheless.
                await answer_error(send, 500, BUG, [CLOSE])


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
