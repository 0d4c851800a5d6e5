"""Encode many records into a batch of Kafka's at once: as aiokafka does one by one, without what it does for each again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiokafka.producer.message_accumulator import BatchBuilder

from gateway.request_id import RecordHeaders

ZSTD = 4
"""As a batch's attributes have it."""


class RunBuilder(BatchBuilder):
    """A batch of records, compressed with zstd."""

    def __init__(self, bytes_max: int) -> None:
        """Make an empty one that takes up to *bytes_max* before compression, or one record that is larger."""
        super().__init__(bytes_max, ZSTD)

    def append_all(self, keys: Sequence[bytes], values: Sequence[bytes], headers: RecordHeaders, *, at_ms: int) -> int:
        """Append records until no more fit; return how many were appended. Then it takes no more.

        Args:
            headers: of each record.
            at_ms: the records' time; of a topic with LogAppendTime the broker's own counts.
        """
        if self._closed:
            return 0
        append: Any = self._builder.append
        first: int = self.record_count()
        for offset, (key, value) in enumerate(zip(keys, values, strict=True), first):
            if append(offset, at_ms, key, value, headers) is None:
                self._relative_offset = offset
                self.close()
                return offset - first
        self._relative_offset = first + len(keys)
        return len(keys)
