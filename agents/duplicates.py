"""Keep what says of the open buckets' records that they are duplicates, for as long as these may be read again.

A bucket is open until it is full, which may take longer than rows are kept. The first ones that told its duplicates are then
gone, from the changelog and from RocksDB, and a worker that reads it again can only go by the duplicates' own rows
(tables/duplicates.py).
"""

from __future__ import annotations

from agents.protocol import Batch, CountingProtocol
from streams.topics import BUCKET_OFFSETS
from tables.duplicates import duplicate_key, stored_duplicates


class DuplicatesKeeper:
    """Writes those rows again now and then, so that no retention takes them; does nothing for a stream without ids."""

    def __init__(self, protocol: CountingProtocol) -> None:
        self._protocol = protocol
        self._kept_at_s: dict[int, float] = {}

    async def keep_alive(self, *, after_s: float) -> None:
        """Write the rows of each partition once more, if that is so long ago; a second writing changes nothing."""
        protocol = self._protocol
        store = protocol.tables.row_store if protocol.tables.stream.id else None
        now_s = protocol.clock.monotonic_s()
        for partition in store.owned() if store is not None else ():
            if now_s - self._kept_at_s.setdefault(partition, now_s) >= after_s:
                self._kept_at_s[partition] = now_s
                open_from = (protocol.counted(partition) or 0) // BUCKET_OFFSETS * BUCKET_OFFSETS
                duplicates = stored_duplicates(store, partition, open_from)
                notes = [(duplicate_key(offset), b"") for offset in duplicates]
                if notes:
                    await protocol._send(protocol.state(partition), Batch(notes=notes))
