"""Fixtures of the client's tests: a recording collector, a fast clock, and clients of both kinds that are closed afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tally_client import Credentials, Options

from tests.client.clients import KINDS, AnyClient
from tests.client.fast_clock import FastClock
from tests.client.recording import Recorder


@pytest.fixture
def clock() -> FastClock:
    return FastClock()


@pytest.fixture
def recorder(clock: FastClock) -> Iterator[Recorder]:
    with Recorder(clock) as recorder:
        yield recorder


Opening = Callable[..., AnyClient]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__.lower())
def open_client(request: pytest.FixtureRequest, recorder: Recorder, clock: FastClock) -> Iterator[Opening]:
    """Open clients of one kind; the test runs for each."""
    opened: list[AnyClient] = []

    def open_one(credentials: Credentials | str | None = None, **options: Any) -> AnyClient:
        defaults: dict[str, Any] = {"clock": clock, "jitter": lambda: 0.5}
        client: AnyClient = request.param(recorder.url, credentials, Options(**{**defaults, **options}))
        opened.append(client)
        return client

    yield open_one
    for client in opened:
        client.end()
