"""Stand in for the data behind a page: answer its questions from samples, in the state that a test wants."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from playwright.sync_api import Page, Route

from tests.browser import answers


@dataclass
class Acting:
    """The data behind one page; change an attribute, and the next answer follows.

    Attributes:
        now: the moment of the system, of all answers.
        missing: partitions that do not answer.
        failing: questions that are answered 503.
        changed: parts of an answer, by question, put in place of those of the sample.
        asked: every question so far: name and fields.
        streams: whether live figures come as a stream; if not, that question is answered 503.
    """

    now: datetime = field(default_factory=answers.utc_now)
    missing: tuple[int, ...] = ()
    failing: set[str] = field(default_factory=set)
    changed: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    streams: bool = True
    freshness_s: float = 1.4

    def behind(self, page: Page) -> None:
        """Answer all questions of *page* from now on."""
        page.route("**/dashboard/api/**", self._answer)

    def fields_of(self, question: str) -> dict[str, str]:
        """Return what was asked last."""
        return next(fields for name, fields in reversed(self.asked) if name == question)

    def _answer(self, route: Route) -> None:
        parts = urlsplit(route.request.url)
        name = parts.path.rsplit("/", 1)[1]
        fields = dict(parse_qsl(parts.query, keep_blank_values=True))
        self.asked.append((name, fields))
        if name in self.failing or (name == "live" and not self.streams):
            error = {"code": "incomplete", "message": "partitions 1, 3 have no ready owner"}
            route.fulfill(status=503, headers={"Retry-After": "1"}, json={"error": error})
        elif name == "live":
            text = json.dumps(self._said("live", fields))
            route.fulfill(content_type="text/event-stream", body=f"retry: 500\n\nid: 1\nevent: live\ndata: {text}\n\n")
        else:
            route.fulfill(json=self._said(name, fields))

    def _said(self, name: str, fields: Mapping[str, str]) -> dict[str, Any]:
        now, missing = self.now, self.missing
        if name in ("live", "now"):
            said = answers.live(now, missing=missing, freshness_s=self.freshness_s)
        elif name == "dimensions":
            said = answers.dimensions()
        elif name == "dead-letters":
            said = answers.dead_letters(now, fields)
        elif name == "where":
            said = answers.where(now, fields)
        else:
            said = {"series": answers.series, "top": answers.top, "user": answers.user}[name](now, fields, missing=missing)
        return {**said, **self.changed.get(name, {})}
