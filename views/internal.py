"""Let nobody but our own processes see what lies under `/internal/`, and nobody Faust's own page."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from streams.internal import PREFIX, is_allowed
from streams.settings import Web
from views.web import Handler, error_answer

OF_FAUST = "/"
"""It greets, and has no setting to be switched off; its others have (streams/app.py)."""


def internal_only(settings: Web) -> Any:
    """Return the middleware of a worker that answers 401 to a request under `/internal/` without the token."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path.startswith(PREFIX) and not is_allowed(settings, request.headers):
            response = error_answer(401, "unauthorized", "this page is for other processes of this installation")
            response.headers["WWW-Authenticate"] = "Bearer"
            return response
        if request.path == OF_FAUST:
            return error_answer(404, "not_found", f"{request.method} Not Found")
        return await handler(request)

    return check
