"""Make one attempt at a request from a loop: prove who asks, compress, post. The twin of `channel`."""

from __future__ import annotations

import asyncio

from tally_client.answers import Reply
from tally_client.async_transport import AsyncTransport
from tally_client.delivery import EVENTS_PATH, Request, Rules
from tally_client.errors import CredentialsError, TransportError
from tally_client.tokens import Credentials, authorization, replaced


class AsyncChannel:
    """The way to the server, for the tasks of one loop at a time.

    Args:
        transport: what posts.
        credentials: who asks; None asks without.
        rules: compression and clock.
    """

    def __init__(self, transport: AsyncTransport, credentials: Credentials | None, rules: Rules) -> None:
        self._transport = transport
        self._credentials = credentials
        self.rules = rules
        self._loop: asyncio.AbstractEventLoop | None = None
        self._renewing: asyncio.Lock | None = None

    async def send(self, request: Request) -> Reply:
        """Return the answer to a request, or the error that came instead of one. A token that is refused is replaced once."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:  # Another asyncio.run: connections and locks are the first one's.
            self._loop = loop
            self.forget()
        body, headers = self.rules.compress(request.body()), request.headers(self.rules)
        try:
            proof = await self._proof()
            answer = await self._transport.post(EVENTS_PATH, body, {**headers, **proof})
            if answer.status == 401 and self._credentials and replaced(self._credentials, proof.get("Authorization")):
                answer = await self._transport.post(EVENTS_PATH, body, {**headers, **await self._proof()})
        except (TransportError, CredentialsError) as error:
            return error
        return answer

    async def _proof(self) -> dict[str, str]:
        if self._credentials is None:
            return {}
        if self._renewing is None:
            self._renewing = asyncio.Lock()
        async with self._renewing:
            value = self._credentials.header()
            if value is None:
                await self._renew(self._credentials)
                value = self._credentials.header()
        return authorization(value)

    async def _renew(self, credentials: Credentials) -> None:
        steps = credentials.renew()
        try:
            request = next(steps)
            while True:
                request = steps.send(await self._transport.post(request.url, b"", request.headers))
        except StopIteration:
            return

    def close(self) -> None:
        """Let go of every connection."""
        self._transport.close()

    def forget(self) -> None:
        """Become the channel of another process or another loop."""
        self._transport.forget()
        self._renewing = None
