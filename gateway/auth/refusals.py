"""Make the headers of the answer to a request that is not let through."""

from __future__ import annotations

from gateway.answers import Headers
from gateway.auth.identity import Refused

SCHEMES = (b"www-authenticate", b"Bearer, ApiKey")


def headers_of(refused: Refused) -> Headers:
    """Return the headers that belong to the answer, `Retry-After` included: send them by `answer`, which adds none.

    >>> headers_of(Refused(429, "too many events", 2))
    [(b'retry-after', b'2')]
    """
    headers = list(refused.headers)
    if refused.status == 401:
        headers.append(SCHEMES)
    if refused.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % refused.retry_after_s))
    return headers
