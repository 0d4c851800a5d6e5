"""Tell whether the gateway lives and is ready, and what it measured."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from gateway.answers import RETRY_AFTER_S
from gateway.intake import Intake
from gateway.workers import Workers
from streams.metrics import CONTENT_TYPE, GatewayMetrics

JSON = "application/json"


class Health:
    """Endpoints for load balancers, process managers and Prometheus."""

    def __init__(self, intakes: Sequence[Intake], workers: Workers, metrics: GatewayMetrics) -> None:
        self._intakes = intakes
        self._workers = workers
        self._metrics = metrics
        self._stops = False
        metrics.ready.set_function(lambda: not self._reasons())
        metrics.workers_ready.set_function(lambda: workers.ready_count)

    def say_stops(self) -> None:
        """From now on say that this gateway is not ready, although it serves on: balancers are to take it out first."""
        self._stops = True

    async def live(self, request: Request) -> Response:
        """Answer 200: the process runs."""
        return Response(b'{"live":true}', media_type=JSON)

    async def ready(self, request: Request) -> Response:
        """Answer 200 when Kafka acknowledges and a worker is ready; else 503 with the reasons.

        With `?for=events` workers do not count: a balancer that asks so sends events on while only queries have no answer.
        """
        reasons = self._reasons(with_queries=request.query_params.get("for") != "events")
        if reasons:
            body = msgspec.json.encode({"ready": False, "reasons": reasons})
            return Response(body, status_code=503, media_type=JSON, headers={"Retry-After": str(RETRY_AFTER_S)})
        return Response(msgspec.json.encode({"ready": True, "workers_ready": self._workers.ready_count}), media_type=JSON)

    def _reasons(self, *, with_queries: bool = True) -> list[str]:
        stops = "the gateway stops" if self._stops else None
        workers = self._workers.why_not_ready() if with_queries else None
        kafka = next((reason for intake in self._intakes if (reason := intake.why_not_ready())), None)
        return [reason for reason in (stops, kafka, workers) if reason]

    async def metrics(self, request: Request) -> Response:
        """Answer the Prometheus text of this process."""
        return Response(self._metrics.text(), media_type=CONTENT_TYPE)
