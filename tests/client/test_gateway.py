"""Both clients against the gateway's own route on a real socket, so that the recording collector is not the only witness."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
from tally_client import Options, Outcome

from gateway.intake import NOT_SENT
from streams.settings import Events
from tests.client.clients import KINDS, AnyClient
from tests.client.fast_clock import FastClock
from tests.support.events_door import EventsDoor

NO_BOUNDS = Events(time_past_s=0, time_future_s=0)
"""The door's clock stands in another year than the client's."""


@pytest.fixture
def door() -> Iterator[EventsDoor]:
    yield EventsDoor(settings=NO_BOUNDS)


@pytest.fixture
def url(door: EventsDoor) -> Iterator[str]:
    """Serve the route with the gateway's server, on a loop of its own."""
    server = uvicorn.Server(uvicorn.Config(door.events, port=0, log_level="error", lifespan="off"))
    sockets = [server.config.bind_socket()]
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets)), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(10)
    sockets[0].close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("compression", [None, "gzip", "deflate", "zstd"])
def test_what_the_client_sends_is_stored_as_it_was(
    kind: type[AnyClient], compression: str | None, door: EventsDoor, url: str
) -> None:
    """Its fields, its ids and its order; nothing is a warning or unknown to the gateway."""
    told: list[Outcome] = []
    options = Options(clock=FastClock(), compression=compression, product="menus", on_success=told.append, on_error=told.append)
    client = kind(url, "a-key", options)
    try:
        text = "O'Brien \u2603 \U0001f600"
        ids = [client.capture("clicked", f"user-{n}", properties={"n": n, "deep": {"text": text}}) for n in range(150)]
        assert client.flush()
    finally:
        client.end()
    stored = [record.event for record in door.stored()]
    assert [event.id for event in stored] == ids
    assert {(event.kind, event.product) for event in stored} == {("EVENT", "menus")}
    assert [outcome.result for outcome in told] == ["ok"] * 150
    assert all("O'Brien" in event.properties for event in stored)


@pytest.mark.parametrize("kind", KINDS)
def test_what_kafka_does_not_acknowledge_is_sent_until_it_does(kind: type[AnyClient], door: EventsDoor, url: str) -> None:
    """A user's partition has no leader for two attempts; the others' events are sent once, and a bad one is told at once."""
    told: list[Outcome] = []
    refused: list[bytes] = []

    def fate(key: bytes) -> Any:
        if key != b"user-1" or len(refused) == 2:
            return None
        refused.append(key)
        return NOT_SENT

    door.intake.fate = fate
    client = kind(url, None, Options(clock=FastClock(), on_success=told.append, on_error=told.append))
    try:
        ids = [client.capture("clicked", f"user-{n}") for n in range(3)]
        bad = client.capture("clicked", "user-4", properties={"text": "x" * 9_000})
        assert client.flush()
    finally:
        client.end()
    outcomes = {outcome.event_id: (outcome.result, outcome.code) for outcome in told}
    assert outcomes == {**dict.fromkeys(ids, ("ok", "")), bad: ("failed", "schema.limit")}
    assert [record.key for record in door.stored()] == ["user-0", "user-1", "user-2", "user-1", "user-1"]
