"""A broker in memory that holds every record of the changelogs of submissions against the law, and what they say in the end."""

from __future__ import annotations

from typing import Any

from streams.event_time import format_minute
from streams.topics import EVENTS, changelog_of
from tables.blocks import PROGRESS, BlockKey, decode_block
from tables.erasures import offset_of
from tables.profiles import decode_span, encode_kept
from tests.support.counting import Broker
from tests.support.sent_again import SubmissionLog

BLOCKS, ROWS = changelog_of(EVENTS.blocks_table), changelog_of(EVENTS.rows_table)


class LawfulBroker(Broker):
    """Holds every record against the law as it comes.

    Attributes:
        written: the value of each key ever written, by topic.
    """

    def __init__(self, log: SubmissionLog) -> None:
        super().__init__()
        self.log = log
        self.source, self.timestamps = dict(log.values), log.timestamps
        self.written: dict[tuple[str, bytes], bytes] = {}

    async def send_batch(self, batch: Any, topic: str, *, partition: int) -> Any:
        for key, value, _ in batch.records:
            if value is not None and topic in (BLOCKS, ROWS):
                assert self.written.setdefault((topic, key), value) == value, f"two values of {key!r} of {topic}"
        return await super().send_batch(batch, topic, partition=partition)

    def rows(self) -> dict[bytes, bytes]:
        """Return every row ever written."""
        spans = (value for (topic, _), value in self.written.items() if topic == ROWS)
        return {key: value for span in spans for key, value in decode_span(span)}

    def totals(self) -> dict[tuple[str, ...], int]:
        """Return the counts of the blocks with the greatest `through`."""
        newest: dict[tuple[int, int], tuple[int, bytes]] = {}
        for (topic, raw), value in self.written.items():
            if topic == BLOCKS and (key := BlockKey.decode(raw)).minute != PROGRESS:
                newest[key[:2]] = max(newest.get(key[:2], (-1, b"")), (key.through, value))
        totals: dict[tuple[str, ...], int] = {}
        for (minute, _), (_, value) in newest.items():
            for dimensions, count in decode_block(value).cells().items():
                cell = (format_minute(minute)[:16], *dimensions)
                totals[cell] = totals.get(cell, 0) + count
        return totals

    def expire(self, before: int) -> None:
        """Let the changelog forget the rows of the offsets before one, but for those that are kept alive."""
        kept: list[tuple[Any, Any, Any]] = []
        for key, value, headers in self.topics[ROWS]:
            is_note = len(key) != 16
            rows = [part for pair in decode_span(value) if is_note or offset_of(pair[0]) >= before for part in pair]
            kept.append((key, encode_kept(rows), headers))
        self.topics[ROWS] = kept
