"""Recompute from the source topic which submissions count: one pass over the log, sharing no code with the product."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tests.support.oracle import at_ms, read_topic
from tests.support.sent_again import WITHIN_MS


class First(NamedTuple):
    """A submission that counts, and where it lies."""

    partition: int
    offset: int
    event: dict[str, Any]


@dataclass
class SubmissionOracle:
    """What must be counted, by the rule: the first one of a user and id, and what comes more than 48 h after it.

    Attributes:
        totals: how many datapoints there are by (minute text, kind, product, datapoint).
        duplicates, refused: places (partition, offset) of what does not count: what came before, and what is no event.
        attempts: places of all records of a user and id in a partition, by (partition, user, id), by rising offset.
    """

    totals: Counter[tuple[str, str, str, str]] = field(default_factory=Counter)
    firsts: list[First] = field(default_factory=list)
    duplicates: set[tuple[int, int]] = field(default_factory=set)
    refused: set[tuple[int, int]] = field(default_factory=set)
    attempts: dict[tuple[int, str, str], list[int]] = field(default_factory=dict)
    _came: dict[tuple[int, str, str], int] = field(default_factory=dict)

    @classmethod
    def of(cls, servers: str, topic: str) -> SubmissionOracle:
        """Return the oracle of a whole topic."""
        oracle = cls()
        for record in read_topic(servers, topic):
            oracle.add(record)
        return oracle

    def add(self, record: Any) -> None:
        """Decide of the next record of its partition."""
        place, event = (record.partition, record.offset), json.loads(record.value)
        key = record.partition, event["user"], event["id"]
        self.attempts.setdefault(key, []).append(record.offset)
        try:
            at_ms(event["time"])
        except ValueError:
            self.refused.add(place)
            return
        if key in self._came and self._came[key] >= record.timestamp - WITHIN_MS:
            self.duplicates.add(place)
            return
        self._came[key] = record.timestamp
        self.firsts.append(First(*place, event))
        minute = event["time"][:16]
        self.totals.update((minute, event["kind"], event["product"], member["key"]) for member in event["data"])

    def count(self, **filters: str) -> int:
        """Return how many datapoints match *filters*: kind, product, datapoint."""
        wanted = [(("minute", "kind", "product", "datapoint").index(name), value) for name, value in filters.items()]
        return sum(count for cell, count in self.totals.items() if all(cell[place] == value for place, value in wanted))

    def timelines(self) -> dict[str, list[dict[str, Any]]]:
        """Return the submissions that count of each user."""
        found: dict[str, list[dict[str, Any]]] = {}
        for first in self.firsts:
            found.setdefault(first.event["user"], []).append(first.event)
        return found
