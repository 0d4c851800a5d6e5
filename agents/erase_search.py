"""Find the records of a rows' changelog that hold rows of users to be erased. It blocks: for a thread of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from agents.changelog import ChangelogRecord
from streams.errors import KafkaUnavailableError
from streams.settings import Settings
from streams.topics import changelog_of
from tables.erasures import Erasures, needles, rewrite_span
from tables.registry import StreamTables

SPAN_KEY_BYTES = 16


class Place(NamedTuple):
    """A record that is to be written once more: its key, and the offset of the newest record that has it."""

    key: bytes
    offset: int


class SpanSearch:
    """Reads one partition of a rows' changelog. Close it."""

    def __init__(self, settings: Settings, tables: StreamTables, partition: int) -> None:
        """Connect.

        Raises:
            KafkaUnavailableError: no broker answers.
        """
        from streams.reading import Reader  # noqa: PLC0415 - kafka-python is 15 MiB that only an erasing worker needs

        self._reader = Reader(settings.kafka)
        self._stream = tables.stream
        self._topic = changelog_of(tables.stream.rows_table)
        self._partition = partition

    def close(self) -> None:
        """Let go of the connection."""
        self._reader.close()

    def source_end(self) -> int:
        """Return the offset after the last event that Kafka has taken."""
        return int(self._bounds(self._stream.topic).end)

    def find(self, users: Sequence[str], erased: Erasures) -> list[Place]:
        """Return the records whose key holds an erased row in its newest version, by offset."""
        bounds = self._bounds(self._topic)
        wanted = needles(users, self._stream.kinds)
        found: dict[bytes, int] = {}
        for record in self._reader.records(self._topic, self._partition, first=bounds.first, end=bounds.decided):
            if record.key is None or len(record.key) != SPAN_KEY_BYTES:
                continue
            value = record.value or b""
            found.pop(record.key, None)
            if any(needle in value for needle in wanted) and rewrite_span(value, erased) is not None:
                found[record.key] = record.offset
        return [Place(key, offset) for key, offset in found.items()]

    def rewrite(self, places: Sequence[Place], erased: Erasures) -> list[ChangelogRecord]:
        """Return records without their erased rows; as old as they were, so that they are kept no longer."""
        records: list[ChangelogRecord] = []
        for place in places:
            for record in self._reader.records(self._topic, self._partition, first=place.offset, end=place.offset + 1):
                value = rewrite_span(record.value or b"", erased)
                if value is not None:
                    records.append(ChangelogRecord(place.key, value, timestamp_ms=record.timestamp))
        return records

    def _bounds(self, topic: str) -> Any:
        bounds = self._reader.bounds(topic).get(self._partition)
        if bounds is None:
            raise KafkaUnavailableError(f"kafka does not know partition {self._partition} of {topic!r}")
        return bounds
