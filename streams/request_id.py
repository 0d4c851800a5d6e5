"""Have the id of the request that is being answered stand in every line of log about it, and go with what is asked for it.

It is kept in the context of the task that answers, so that nobody has to hand it on: a line that is written there shows it, and
a request to another process takes it along.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

HEADER = "X-Request-Id"
SANE = r"[A-Za-z0-9._:-]{1,64}"
"""What a log and a header can hold as it is."""
_current: ContextVar[str] = ContextVar("request_id", default="")


@contextmanager
def answering(request_id: str) -> Iterator[None]:
    """Let what is done inside the block be for the request of this id; none where it is empty, or no sane one."""
    token = _current.set(request_id if re.fullmatch(SANE, request_id) else "")
    try:
        yield
    finally:
        _current.reset(token)


def id_headers() -> Mapping[str, str]:
    """Return the headers of a request that is made to answer the present one.

    >>> with answering("shop-1"):
    ...     id_headers()
    {'X-Request-Id': 'shop-1'}
    >>> id_headers()
    {}
    """
    request_id = _current.get()
    return {HEADER: request_id} if request_id else {}


class WithRequestId(logging.Filter):
    """Puts the id of the present request into its lines, unless they name one themselves."""

    def filter(self, record: logging.LogRecord) -> bool:
        request_id = _current.get()
        if request_id and not hasattr(record, "request_id"):
            record.request_id = request_id
        return True
