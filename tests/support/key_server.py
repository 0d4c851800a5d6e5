"""The development key server over real HTTP, stopped and started at will; and key sets without a socket."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from aiohttp import web

from gateway.auth.key_set import KeyServerError
from stack.key_server import KeyServer
from stack.ports import LOOPBACK, free_port

CLIENT, SECRET = "courses", "a-secret"
DONE_WITHIN_S = 20.0


class ServedKeys:
    """A key server that listens, on one port for all its lives.

    Attributes:
        server: what issues the tokens.
        fetches: how often its key set was asked for.
        redirect: where it sends those who ask for anything; "": it answers itself.
    """

    def __init__(self, server: KeyServer) -> None:
        self.server = server
        self.fetches = 0
        self.redirect = ""
        self._port = free_port()
        self._runner: web.AppRunner | None = None

    @property
    def base(self) -> str:
        return f"http://{LOOPBACK}:{self._port}/identity"

    @property
    def url(self) -> str:
        """Of the key set."""
        return f"{self.base}/jwks/"

    async def start(self) -> None:
        app = self.server.application()
        app.middlewares.append(self._count)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, LOOPBACK, self._port).start()

    async def stop(self) -> None:
        """Listen no more."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    @web.middleware
    async def _count(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        self.fetches += request.path == "/identity/jwks/"
        if self.redirect:
            raise web.HTTPFound(self.redirect)
        return await handler(request)


@asynccontextmanager
async def served_keys() -> AsyncIterator[ServedKeys]:
    """Serve keys while the block runs."""
    served = ServedKeys(KeyServer({CLIENT: SECRET}))
    await served.start()
    try:
        yield served
    finally:
        await served.stop()


class KeysInAThread:
    """A key server that listens on a thread of its own, for tests that share one.

    Attributes:
        served: read and rotated from anywhere; started and stopped by `start` and `stop`.
    """

    def __init__(self, server: KeyServer) -> None:
        self.served = ServedKeys(server)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="key server")
        self._thread.start()

    def start(self) -> None:
        self._do(self.served.start())

    def stop(self) -> None:
        """Listen no more."""
        self._do(self.served.stop())

    def close(self) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(DONE_WITHIN_S)


@contextmanager
def keys_in_a_thread(server: KeyServer | None = None) -> Iterator[KeysInAThread]:
    """Serve keys while the block runs, whatever becomes of event loops in it; those of a *server*, or of one of its own."""
    keys = KeysInAThread(server or KeyServer({CLIENT: SECRET}))
    try:
        keys.start()
        yield keys
    finally:
        keys.close()


class KeysAtHand:
    """What a key set fetches, without HTTP.

    Attributes:
        answers: whether the server does.
        fetches: how often it was asked.
    """

    def __init__(self, server: KeyServer) -> None:
        self._server = server
        self.answers = True
        self.fetches = 0

    async def fetch(self) -> bytes:
        self.fetches += 1
        await asyncio.sleep(0)  # as a real one gives others their turn
        if not self.answers:
            raise KeyServerError("no answer")
        return json.dumps(self._server.key_set()).encode()
