"""Make one attempt at a request from a thread: prove who asks, compress, post."""

from __future__ import annotations

from tally_client.answers import Reply
from tally_client.delivery import EVENTS_PATH, Request, Rules
from tally_client.errors import CredentialsError, TransportError
from tally_client.tokens import SharedCredentials
from tally_client.transport import Transport


class Channel:
    """The way to the server; safe for several threads.

    Args:
        transport: what posts.
        credentials: who asks.
        rules: compression and clock.
    """

    def __init__(self, transport: Transport, credentials: SharedCredentials, rules: Rules) -> None:
        self._transport = transport
        self._credentials = credentials
        self.rules = rules

    def send(self, request: Request) -> Reply:
        """Return the answer to a request, or the error that came instead of one. A token that is refused is replaced once."""
        body, headers = self.rules.compress(request.body()), request.headers(self.rules)
        try:
            proof = self._credentials.headers()
            answer = self._transport.post(EVENTS_PATH, body, {**headers, **proof})
            if answer.status == 401 and self._credentials.replace(proof.get("Authorization")):
                answer = self._transport.post(EVENTS_PATH, body, {**headers, **self._credentials.headers()})
        except (TransportError, CredentialsError) as error:
            return error
        return answer

    def close(self) -> None:
        """Break off what is under way, and let go of every connection."""
        self._transport.close()

    def forget(self) -> None:
        """Become the channel of a forked child."""
        self._transport.forget()
        self._credentials.forget()
