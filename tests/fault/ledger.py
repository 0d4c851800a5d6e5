"""Write down every event that is sent and what was answered: acknowledged, refused or unknown; nothing is counted by guess."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from threading import Lock
from typing import IO


class Outcome(StrEnum):
    """What the sender of an event knows: Jepsen's ok, fail and info."""

    ACKNOWLEDGED = "acknowledged"
    REFUSED = "refused"
    UNKNOWN = "unknown"


class Way(StrEnum):
    """How an event was sent."""

    HTTP = "http"
    KAFKA = "kafka"


Place = tuple[int, int]
"""Partition and offset in the source topic."""


@dataclass(slots=True)
class Entry:
    """One event. Without an answer its outcome is unknown.

    Attributes:
        number: its identity, also its `product_id`.
        place: where Kafka says that it is; only known to those that send straight into Kafka.
    """

    number: int
    value: bytes
    way: Way
    outcome: Outcome = Outcome.UNKNOWN
    place: Place | None = None


class Ledger:
    """All events of a case, in memory and as lines of JSON in *path*; any thread may write.

    Attributes:
        acknowledged: how many events have been acknowledged so far.
        expected_dead: reason codes of records that nobody can count, by their place.
        elsewhere: how many countable events lie outside the usual ten minutes; whoever sends such events adds them.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.acknowledged = 0
        self.expected_dead: dict[Place, str] = {}
        self.elsewhere = 0
        self._entries: dict[int, Entry] = {}
        self._next = 1
        self._lock = Lock()
        self._file: IO[str] | None = path.open("w", encoding="utf-8") if path else None

    def next_number(self) -> int:
        """Return an identity that no event has yet, from 1 on."""
        with self._lock:
            self._next += 1
            return self._next - 1

    def sent(self, number: int, value: bytes, way: Way) -> None:
        """Note an event that is about to be sent; each number once."""
        with self._lock:
            if number in self._entries:
                raise ValueError(f"the event {number} was sent before")
            self._entries[number] = Entry(number, value, way)
            self._write(number=number, way=way, value=value.decode("utf-8", "replace"))

    def answered(self, number: int, outcome: Outcome, place: Place | None = None) -> None:
        """Note what was answered."""
        with self._lock:
            entry = self._entries[number]
            entry.outcome, entry.place = outcome, place
            self.acknowledged += outcome is Outcome.ACKNOWLEDGED
            self._write(number=number, outcome=outcome, place=place)

    def expect_dead(self, place: Place, reason: str) -> None:
        """Note a record that must become a dead letter with this reason, and count nowhere."""
        with self._lock:
            self.expected_dead[place] = reason
            self._write(dead=place, reason=reason)

    def entries(self) -> list[Entry]:
        """Return every event sent so far, in the order of their sending."""
        with self._lock:
            return list(self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)

    def close(self) -> None:
        """Finish the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, **fields: object) -> None:
        if self._file is not None:
            self._file.write(json.dumps(fields) + "\n")


def read_entries(path: Path) -> Iterator[Entry]:
    """Yield the events of a ledger's file, as they stood at its end."""
    entries: dict[int, Entry] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        fields = json.loads(line)
        if "value" in fields:
            entries[fields["number"]] = Entry(fields["number"], fields["value"].encode(), Way(fields["way"]))
        elif "outcome" in fields:
            entry = entries[fields["number"]]
            entry.outcome = Outcome(fields["outcome"])
            entry.place = tuple(fields["place"]) if fields["place"] else None
    yield from entries.values()
