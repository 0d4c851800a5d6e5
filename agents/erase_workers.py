"""Ask every worker to erase its part, or to say what it would: by HTTP, one after another, until all partitions are covered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http.client import HTTPException
from time import sleep
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import msgspec

from streams.clock import SYSTEM_CLOCK
from streams.errors import IncompleteAnswerError, SettingsError
from streams.internal import token_headers
from streams.settings import Settings
from streams.topics import Stream

PATH = "/internal/erase"
TIMEOUT_S = 3_600.0
"""A worker reads its part of a changelog from end to end."""
READY_WITHIN_S = 60.0
PAUSE_S = 0.5
UNAVAILABLE = 503


class Workers:
    """The workers that hold partitions; each of the list leads to all."""

    def __init__(self, settings: Settings, urls: Sequence[str]) -> None:
        """Describe them; nothing is asked yet.

        Raises:
            SettingsError: a URL is none of HTTP.
        """
        self.settings = settings
        listed = [url.strip() for url in settings.gateway.workers.split(",") if url.strip()]
        self._urls = [url.rstrip("/") for url in (*urls, *listed)] or [f"http://{settings.web.host}:{settings.web.port}"]
        for url in self._urls:
            if not url.startswith(("http://", "https://")):
                raise SettingsError(f"{url!r} is not a URL of http or https")
        self._headers = token_headers(settings.web)
        self._partitions = settings.topics.partitions

    def erase(
        self, users: Sequence[str], stream: Stream, *, dry_run: bool, before: Mapping[int, int] | None = None
    ) -> dict[int, dict[str, int]]:
        """Return what was done to a stream's rows, or would be, by partition: all of them. A second call does what is left.

        Args:
            before: source offset by partition; None: the end of now.

        Raises:
            IncompleteAnswerError: a worker does not answer, or partitions have no owner; some may be done.
        """
        asked = {"users": list(users), "topic": stream.topic, "dry_run": dry_run, "before": dict(before or {})}
        body = msgspec.json.encode(asked)
        until_s = SYSTEM_CLOCK.monotonic_s() + READY_WITHIN_S
        while True:
            why, done = self._ask_all(body)
            if not why:
                return done
            if SYSTEM_CLOCK.monotonic_s() > until_s:
                raise IncompleteAnswerError(f"{why}; run it again when all workers are ready")
            sleep(PAUSE_S)

    def _ask_all(self, body: bytes) -> tuple[str, dict[int, dict[str, int]]]:
        done: dict[int, dict[str, int]] = {}
        waiting, asked = list(self._urls), set[str]()
        while waiting:
            url = waiting.pop(0).rstrip("/")
            if url in asked:
                continue
            asked.add(url)
            try:
                answer = self._ask(url, body)
            except IncompleteAnswerError as error:
                return str(error), done
            done.update({int(partition): counts for partition, counts in answer["partitions"].items()})
            waiting += answer["workers"]
        left = sorted(set(range(self._partitions)) - set(done))
        return (f"partitions {left} have no owner" if left else ""), done

    def _ask(self, url: str, body: bytes) -> dict[str, Any]:
        request = Request(url + PATH, data=body, headers=self._headers, method="POST")  # noqa: S310 - the scheme is checked
        try:
            with urlopen(request, timeout=TIMEOUT_S) as response:  # noqa: S310
                answer: dict[str, Any] = msgspec.json.decode(response.read())
                return answer
        except HTTPError as error:
            with error:
                if error.code != UNAVAILABLE:
                    raise SettingsError(f"{url} refuses to erase with {error.code}: is web.token the same there?") from error
                raise IncompleteAnswerError(f"{url} is not ready to erase") from error
        except (OSError, HTTPException, msgspec.DecodeError) as error:
            raise IncompleteAnswerError(f"{url} does not answer: {error}") from error
