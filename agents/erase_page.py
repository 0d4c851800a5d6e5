"""Let `python -m agents.erase` reach this worker: a page between our own processes, and a timer for what recovery brings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import msgspec
from aiohttp import web
from faust.web import View

from agents.erase_rows import Eraser
from agents.guard import guard
from agents.protocol import CountingProtocol
from streams.errors import IncompleteAnswerError, KafkaUnavailableError
from streams.topics import USER_TAGS

PATH = "/internal/erase"
SWEEP_INTERVAL_S = 5.0


class EraseRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Whom to erase from the rows of which stream, and before which source offset of each partition.

    Where none is given, it is before the end of now. With *dry_run* rows are only counted.
    """

    users: list[str]
    topic: str = USER_TAGS.topic
    before: dict[int, int] = {}
    dry_run: bool = True


def create_eraser(app: Any, protocols: Sequence[CountingProtocol]) -> None:
    """Declare the page and the timer of a worker that keeps rows; of a stream that keeps none there is nothing to erase."""
    erasers = {
        protocol.tables.stream.topic: Eraser(app, protocol) for protocol in protocols if protocol.tables.rows is not None
    }

    @app.timer(SWEEP_INTERVAL_S, name="sweep-erased")
    async def sweep_erased() -> None:
        """Remove rows that a recovery read before the erasure of their erasure."""
        async with guard():
            for eraser in erasers.values():
                with suppress(IncompleteAnswerError):  # a rebalance: whoever has the partition then sweeps it
                    await eraser.sweep()

    async def post(self: Any, request: web.Request, **_: Any) -> web.StreamResponse:
        try:
            return _json(200, await answer(app, erasers, await request.read()))
        except (msgspec.DecodeError, KeyError):
            return _error(400, "bad_request", "the body is not a request to erase")
        except (IncompleteAnswerError, KafkaUnavailableError) as error:
            return _error(503, "incomplete", str(error))

    app.page(PATH, name="page-internal-erase")(type("page-internal-erase", (View,), {"post": post}))


async def answer(app: Any, erasers: Mapping[str, Eraser], body: bytes) -> dict[str, Any]:
    """Return what was done, or would be, by partition; and every worker that holds one, so that the command misses none.

    Raises:
        KeyError: no rows are kept of that topic.
        IncompleteAnswerError, KafkaUnavailableError: not all was done; asked again, the rest is.
    """
    request = msgspec.json.decode(body, type=EraseRequest)
    eraser = erasers[request.topic]
    partitions: dict[int, Any]
    if request.dry_run:
        partitions = {partition: {"rows": rows} for partition, rows in eraser.count(request.users).items()}
    else:
        partitions = {
            partition: asdict(done) for partition, done in (await eraser.erase(request.users, request.before)).items()
        }
    workers = [str(url) for url, topics in app.router.tables_metadata().items() if topics]
    return {"partitions": {str(partition): done for partition, done in partitions.items()}, "workers": workers}


def _json(status: int, value: Any) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json")


def _error(status: int, code: str, message: str) -> web.Response:
    return _json(status, {"error": {"code": code, "message": message}})
