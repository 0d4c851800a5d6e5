"""What can go wrong, as the client's own errors; none carries a payload or a secret."""

from __future__ import annotations


class ClientError(Exception):
    """Base of every error of this package."""


class TransportError(ClientError):
    """No answer came: refused, reset, timed out, not HTTP. Whether the server has the request is unknown."""


class CredentialsError(ClientError):
    """The token service refused to give a token; trying again with the same secret is in vain."""


class SpoolError(ClientError):
    """The spool cannot be read or written now."""


class DeliveryError(ClientError):
    """An event of a client with `sync=True` was not delivered.

    Attributes:
        code: why, in a word: `too_old`, `http_403`, a code of the server, …
        event_id: which event.
    """

    def __init__(self, code: str, detail: str, event_id: str) -> None:
        super().__init__(f"event {event_id} was not delivered: {code}" + (f" ({detail})" if detail else ""))
        self.code = code
        self.event_id = event_id
