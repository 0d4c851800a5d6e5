"""Read the `Authorization` header of a request: a scheme, and what follows it."""

from __future__ import annotations

from gateway.auth.identity import Headers, RefusalReason, Refused

HEADER = b"authorization"
CREDENTIALS_BYTES_MAX = 8_192
"""A token of the usual claims has 600; more would only cost work before it is refused."""
PARTS = 2


def credentials_of(headers: Headers) -> tuple[str, bytes]:
    """Return the scheme in lower case and the credentials.

    Raises:
        Refused: 401; the header is missing, not of two parts, there twice, or too long.

    >>> credentials_of([(b"host", b"x"), (b"authorization", b"BEARER abc")])
    ('bearer', b'abc')
    """
    values = [value for name, value in headers if name == HEADER]
    if not values or not values[0].strip():
        raise Refused(401, "Authorization header missing", reason=RefusalReason.NO_CREDENTIALS)
    parts = values[0].split()
    if len(values) > 1 or len(parts) != PARTS or len(values[0]) > CREDENTIALS_BYTES_MAX:
        raise Refused(401, "Invalid authorization header format")
    return parts[0].lower().decode("latin-1"), parts[1]


def wrong_scheme() -> Refused:
    """Return the refusal of a scheme that an intake does not take."""
    return Refused(401, "Wrong authentication scheme")
