"""Make logs of submissions that are sent again, and say by a rule of three lines which of them count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from streams.topics import EVENTS
from tests.support.builders import a_submission, record_bytes

WITHIN_MS = EVENTS.duplicates_within_s * 1000
HOUR_MS = 3_600_000
START_MS = 1_700_000_000_000
USERS = ("", "ann", "ann2", "bob")
IDS = ("", "1", "12", "1\x7f", "é")
"""Some are the beginnings of others, and one ends in the byte that inverted times begin with."""
PAUSES_MS = (0, 0, 1, 1_000, 10 * HOUR_MS, 23 * HOUR_MS, WITHIN_MS, WITHIN_MS + 1, 2 * WITHIN_MS)


@dataclass(slots=True)
class SubmissionLog:
    """One partition: its records by offset, and when Kafka took them.

    Attributes:
        sent: what each offset holds; None for a record that is no event.
    """

    sent: dict[int, dict[str, Any] | None] = field(default_factory=dict)
    timestamps: dict[int, int] = field(default_factory=dict)

    @property
    def values(self) -> dict[int, bytes | None]:
        """Values of the records by offset."""
        return {offset: b"{" if event is None else record_bytes(event) for offset, event in self.sent.items()}

    def firsts(self) -> dict[int, dict[str, Any]]:
        """Return what counts: the events that no first one of the same user and id came shortly before, at a smaller offset."""
        came: dict[tuple[str, str], int] = {}
        firsts: dict[int, dict[str, Any]] = {}
        for offset, event in sorted(self.sent.items()):
            if event is not None:
                key, at_ms = (event["user"], event["id"]), self.timestamps[offset]
                if key not in came or came[key] < at_ms - WITHIN_MS:
                    came[key], firsts[offset] = at_ms, event
        return firsts

    def duplicates(self) -> set[int]:
        """Return the offsets of the events that do not count."""
        return {offset for offset, event in self.sent.items() if event is not None} - self.firsts().keys()


def some_submissions(random: Random, count: int) -> SubmissionLog:
    """Return a log in which most submissions are sent more than once, near each other and far apart."""
    log, now_ms = SubmissionLog(), START_MS
    for offset in range(count):
        now_ms += random.choice(PAUSES_MS) if random.random() < 0.1 else random.randrange(60_000)
        came_ms = now_ms - (5_000 if random.random() < 0.05 else 0)  # a broker's clock is not always right
        log.timestamps[offset] = came_ms
        log.sent[offset] = None if random.random() < 0.03 else a_drawn_submission(random)
    return log


def a_drawn_submission(random: Random) -> dict[str, Any]:
    """Return one of a few hundred submissions; one id does not always hold the same."""
    keys = random.choices(("opened", "closed", "opened", "x" * 40), k=random.randrange(4))
    return a_submission(
        *keys, user=random.choice(USERS), id=random.choice(IDS), product=random.choice(("A", "B")),
        time=f"2022-03-01T00:0{random.randrange(3)}:00Z",
    )  # fmt: skip


def totals_of(firsts: Mapping[int, dict[str, Any]]) -> dict[tuple[str, ...], int]:
    """Return how many datapoints there are by minute, kind, product and key."""
    counts: Counter[tuple[str, ...]] = Counter()
    for event in firsts.values():
        for member in event["data"]:
            counts[event["time"][:16], event["kind"], event["product"], member["key"]] += 1
    return dict(counts)
