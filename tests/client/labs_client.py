"""Clients of Labs' intake and a clock to set, for tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tally_client.clock import SystemClock
from tally_client.labs import LabsClient, LabsOptions, Product

DATA = [{"key": "user.click", "value": "1"}, {"key": "user.drag", "value": "5"}]


class SetClock(SystemClock):
    """A clock that a test sets; waiting takes its real time."""

    def __init__(self) -> None:
        self.wall = 1_704_067_200.75
        self.skipped_s = 0.0

    def wall_s(self) -> float:
        return self.wall

    def elapsed_s(self) -> float:
        return super().elapsed_s() + self.skipped_s


@contextmanager
def a_client(url: str, credentials: Any = None, product: Product = Product.CLUBS, **options: Any) -> Iterator[LabsClient]:
    """Open a client with these options, and close it without waiting for what is left."""
    given = LabsOptions(**{"exit_timeout_s": 0.01, **options})
    with LabsClient(url, credentials, product=product, options=given) as client:
        yield client
