"""Remember what happens to the assignment of partitions, until the loop looks."""

from __future__ import annotations

from threading import Event
from typing import Any

from kafka import ConsumerRebalanceListener


class Rebalances(ConsumerRebalanceListener):
    """Remembers that the assignment changes. Called on the consumer's own thread, so it does nothing else.

    Attributes:
        happened: what is in memory, and every position, is of an assignment that is over.
        under_way: there is no next assignment yet.
    """

    def __init__(self) -> None:
        self.happened = Event()
        self.under_way = Event()

    def on_partitions_revoked(self, revoked: Any) -> None:
        self.under_way.set()
        self.happened.set()

    def on_partitions_assigned(self, assigned: Any) -> None:
        self.happened.set()
        self.under_way.clear()

    def on_partitions_lost(self, lost: Any) -> None:
        self.on_partitions_revoked(lost)
