"""Ask a running gateway or worker by HTTP, for a command: a question of a few fields, an answer of JSON."""

from __future__ import annotations

from collections.abc import Mapping
from http.client import HTTPException
from time import sleep
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import urlopen

import msgspec

from streams.clock import SYSTEM_CLOCK
from streams.errors import IncompleteAnswerError, SettingsError

TIMEOUT_S = 30.0
READY_WITHIN_S = 20.0
"""A rebalance is answered with 503 meanwhile; it lasts a few seconds."""
PAUSE_S = 0.5
UNAVAILABLE = 503


def ask(url: str, path: str, fields: Mapping[str, object]) -> dict[str, Any]:
    """Return the answer to a GET of *path* under *url*.

    Raises:
        SettingsError: the URL is none of HTTP.
        IncompleteAnswerError: nobody answers there, or not with 200; 503 only when it lasts.
    """
    if not url.startswith(("http://", "https://")):
        raise SettingsError(f"{url!r} is not a URL of http or https")
    target, started_s = f"{url.rstrip('/')}{path}?{urlencode(fields)}", SYSTEM_CLOCK.monotonic_s()
    while True:
        try:
            with urlopen(target, timeout=TIMEOUT_S) as response:  # noqa: S310 - the scheme is checked
                answer: dict[str, Any] = msgspec.json.decode(response.read())
                return answer
        except HTTPError as error:
            with error:
                message = _message(error.read())
            if error.code != UNAVAILABLE or SYSTEM_CLOCK.monotonic_s() - started_s > READY_WITHIN_S:
                raise IncompleteAnswerError(f"{url} answers {path} with {error.code}: {message}") from error
        except (OSError, HTTPException, msgspec.DecodeError) as error:
            raise IncompleteAnswerError(f"{url} does not answer {path}: {error}") from error
        sleep(PAUSE_S)


def _message(body: bytes) -> str:
    try:
        return str(msgspec.json.decode(body)["error"]["message"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return "no reason given"
