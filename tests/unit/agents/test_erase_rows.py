"""Erased users leave a store of rows whole: their profiles, and their places in the index by which duplicates are told."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agents.erase_rows import Eraser
from agents.protocol import Batch
from streams.topics import EVENTS
from tables.erasures import Erasure, digest_of, offset_of
from tables.profiles import DUPLICATE, INDEX, user_of
from tests.support.builders import a_submission, record_bytes
from tests.support.counting import Broker, InProcess
from tests.support.stores import content

USERS = ("", "a", "ann", "anna", "ann\x01", "\U0010ffff", "__faust")
"""Some begin like another, and one like Faust's own key."""


@pytest.fixture
async def worker(tmp_path: Path) -> Any:
    """A worker whose store has two submissions of each user, and a duplicate."""
    broker = Broker()
    events = [a_submission("k", user=user, id=str(number % 2)) for number in range(3) for user in USERS]
    broker.source = {offset: record_bytes(event) for offset, event in enumerate(events)}
    worker = InProcess(broker, tmp_path, EVENTS)
    await worker.recover()
    await worker.deliver(len(events))
    await worker.finish()
    yield worker
    worker.close()


def eraser_of(worker: InProcess) -> Eraser:
    tables = SimpleNamespace(actives_ready=True)
    return Eraser(SimpleNamespace(tables=tables, rebalancing=False), worker)


def users_in(worker: InProcess) -> dict[str, tuple[int, int]]:
    """Return how many rows of profiles, and how many places in the index, the store has of each user."""
    store: Any = worker.tables.row_store
    found: dict[str, tuple[int, int]] = {}
    for key in content(store):
        if not key.startswith((DUPLICATE, b"\xff", b"__faust\0offset")):
            rows, places = found.get(user_of(key).decode(), (0, 0))
            found[user_of(key).decode()] = (rows, places + 1) if key.startswith(INDEX) else (rows + 1, places)
    return found


async def erase(worker: InProcess, *users: str, before: int = 1 << 40) -> None:
    """Note an erasure, as a recovery would bring it, and sweep."""
    erasures = [Erasure(digest_of(user.encode()), before) for user in users]
    await worker._send(worker.state(0), Batch(notes=[erasure.row for erasure in erasures]))
    await worker.finish()
    await eraser_of(worker).sweep()


async def test_each_user_has_rows_and_places_and_the_count_is_of_rows(worker: InProcess) -> None:
    """The dry run says how many submissions would go."""
    assert users_in(worker) == dict.fromkeys(USERS, (2, 2))
    assert eraser_of(worker).count(["ann", "nobody"]) == {0: 2}


@pytest.mark.parametrize("user", USERS)
async def test_sweep_takes_the_places_along_and_nobody_elses(worker: InProcess, user: str) -> None:
    """Else the user's name stays in the files; and a user that begins alike is another one."""
    await erase(worker, user)
    assert users_in(worker) == dict.fromkeys((other for other in USERS if other != user), (2, 2))
    duplicates = [key for key in content(worker.tables.row_store) if key.startswith(DUPLICATE)]  # type: ignore[arg-type]
    assert len(duplicates) == len(USERS)


async def test_sweep_keeps_what_came_after_the_bound(worker: InProcess) -> None:
    """A user who comes back is a new one."""
    bound = len(USERS)
    await erase(worker, *USERS, before=bound)
    assert users_in(worker) == dict.fromkeys(USERS, (1, 1))
    kept = [key for key in content(worker.tables.row_store) if not key.startswith((b"\xff", b"__faust\0o"))]  # type: ignore[arg-type]
    assert all(offset_of(key) >= bound for key in kept)
