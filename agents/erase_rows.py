"""Erase users from the partitions of this worker: their rows in RocksDB, and in the changelog under the keys they lie under.

The order makes it final, whenever the process is killed; what was begun is done by the next run:

1. An erasure (tables/erasures.py) is remembered, sent and stored: from then on no row of the user below it is made or shown.
2. When everything that was sent before the erasure is finished, the changelog is read, and each record that holds a row of the
   user goes out once more under its own key without it. Compaction then removes the older one (agents/erase_topics.py).
3. The rows are deleted from RocksDB, and the files that held them compacted.

A worker that recovers reads old records before it reads the erasure: it does 3 for the erasures that its own store has not seen
through. Blocks hold no user and are not touched, so nothing that is counted changes.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rocksdict import BottommostLevelCompaction, CompactOptions, Rdict, WriteBatch

from agents.erase_search import Place, SpanSearch
from agents.guard import guard
from agents.protocol import Batch, CountingProtocol
from streams.errors import IncompleteAnswerError
from streams.topics import BUCKET_OFFSETS
from tables.erasures import SWEPT_PREFIX, Erasure, Erasures, digest_of, heads_of, offset_of, stored_erasures
from tables.profiles import DUPLICATE, INDEX, ORDER, user_of
from tables.store import Store, flush, write_batch

log = logging.getLogger(__name__)

REWRITTEN_RECORDS_MAX = 8
"""Records of one sending: each may have `SPAN_BYTES_MAX` bytes."""
USERS_A_SLICE = 500
"""Users looked at between two turns of the loop, when only their digests are known."""
DELETED_ROWS_MAX = 2048
KEEP_ALIVE_PARTS = 24
"""An erasure whose bucket is open is sent again this many times a horizon, as the bucket is."""
RANGE_BYTES = 2
"""RocksDB writes the bounds of a compaction into its log: only the beginning of a user's name."""
HEAD_BYTES = ORDER.size + 2
"""What follows the user in a row's key."""


@dataclass(slots=True)
class Done:
    """What was done in one partition.

    Attributes:
        before: source offset; what is below it is erased.
        records: changelog records that were written once more.
        rows: rows deleted from RocksDB.
    """

    before: int
    records: int = 0
    rows: int = 0


@dataclass(slots=True)
class Eraser:
    """Erases in the partitions that this worker owns; one erasure at a time."""

    app: Any
    protocol: CountingProtocol
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _sent_at_s: dict[int, float] = field(default_factory=dict)

    @property
    def store(self) -> Store:
        store = self.protocol.tables.row_store
        assert store is not None
        return store

    def check_ready(self) -> None:
        """Return when this worker may change its stores.

        Raises:
            IncompleteAnswerError: it recovers, or a rebalance is under way.
        """
        if not self.app.tables.actives_ready or self.app.rebalancing:
            raise IncompleteAnswerError("this worker is recovering or rebalancing")

    def count(self, users: Sequence[str]) -> dict[int, int]:
        """Return how many rows of *users* each owned partition has in RocksDB; changes nothing."""
        self.check_ready()
        heads = [user.encode() + b"\0" for user in users]
        return {
            partition: sum(1 for head in heads for _ in self.store.scan(partition, *_after(head)))
            for partition in self.store.owned()
        }

    async def erase(self, users: Sequence[str], before: Mapping[int, int]) -> dict[int, Done]:
        """Erase *users* from every owned partition, and the stores of partitions that were once owned here altogether.

        A second call without *before* erases what came since the first too; what is gone stays gone.

        Args:
            before: source offset by partition; where none is given it is the end of now.

        Raises:
            IncompleteAnswerError: a partition was taken away meanwhile; call again, there and here.
            KafkaUnavailableError: Kafka does not answer; call again.
        """
        async with self._lock:
            self.check_ready()
            done = {partition: await self._erase(partition, users, before.get(partition)) for partition in self.store.owned()}
            self._remove_old_stores()
            return done

    async def _erase(self, partition: int, users: Sequence[str], before: int | None) -> Done:
        search = await asyncio.to_thread(SpanSearch, self.protocol.settings, self.protocol.tables, partition)
        try:
            done = Done(await asyncio.to_thread(search.source_end) if before is None else before)
            erasures = [Erasure(digest_of(user.encode()), done.before) for user in users]
            erased = self.protocol.state(partition).erased
            erased.add(erasures)  # before it is sent: whoever is sent after it has left the rows out
            await self._send(partition, Batch(notes=[erasure.row for erasure in erasures]))
            done.records = await self._rewrite(partition, search, users)
        finally:
            await asyncio.to_thread(search.close)
        heads = [head for user in users for head in heads_of(user.encode())]
        keys = [key for head in heads for key in self._erased_rows(partition, head, erased)]
        done.rows = await self._delete(partition, keys, erasures)
        log.info("erased %d users from partition %d", len(users), partition)
        return done

    async def _rewrite(self, partition: int, search: SpanSearch, users: Sequence[str]) -> int:
        """Send the records that hold a row of *users* once more, without it."""
        erased = self.protocol.state(partition).erased
        places: list[Place] = await asyncio.to_thread(search.find, users, erased)
        for start in range(0, len(places), REWRITTEN_RECORDS_MAX):
            records = await asyncio.to_thread(search.rewrite, places[start : start + REWRITTEN_RECORDS_MAX], erased)
            await self._send(partition, Batch(rewritten=records))
        return len(places)

    async def _send(self, partition: int, batch: Batch) -> None:
        """Send a batch as the protocol sends its own, and wait until it, and all before it, is finished."""
        self.check_ready()
        state = self.protocol.state(partition)
        async with guard():
            await self.protocol._send(state, batch)
        if state.tail is not None:
            await state.tail
        if self.store.database(partition) is None:
            raise IncompleteAnswerError(f"partition {partition} was taken away")

    # -- RocksDB

    def _erased_rows(self, partition: int, head: bytes, erased: Erasures) -> Iterator[bytes]:
        """Yield the keys of a user's erased rows that begin with *head*; later rows are those of a user who came back."""
        for key in self.store.keys_between(partition, *_after(head)):
            is_row = head.startswith(INDEX) or len(key) == len(head) - 1 + HEAD_BYTES  # else Faust's own
            if is_row and erased.covers(user_of(key), offset_of(key)):
                yield key

    async def _delete(self, partition: int, keys: Sequence[bytes], erasures: Iterable[Erasure]) -> int:
        """Delete rows, let their bytes go from the disk, and only then remember that this store is through with *erasures*."""
        for start in range(0, len(keys), DELETED_ROWS_MAX):
            write = WriteBatch(raw_mode=True)
            for key in keys[start : start + DELETED_ROWS_MAX]:
                write.delete(key)
            write_batch(self._database(partition), write)
            await asyncio.sleep(0)
        await asyncio.to_thread(compact, self._database(partition), sorted({_range_of(key) for key in keys}))
        swept = WriteBatch(raw_mode=True)
        for erasure in erasures:
            swept.put(*erasure.swept)
        write_batch(self._database(partition), swept)
        # A manifest names the files of before its last change, and so their first and last keys: another change follows.
        await asyncio.to_thread(flush, self._database(partition))
        return len(keys)

    def _database(self, partition: int) -> Rdict:
        self.check_ready()
        database = self.store.database(partition)
        if database is None:
            raise IncompleteAnswerError(f"partition {partition} was taken away")
        return database

    def _remove_old_stores(self) -> None:
        """Remove what lies here of partitions that are another worker's now: a copy, and recovered when they come back."""
        self.check_ready()
        for path in sorted(self.store.path.glob(f"{self.protocol.tables.stream.rows_table}-*.db")):
            number = path.stem.rpartition("-")[2]
            if number.isdecimal() and int(number) not in self.store.owned():
                shutil.rmtree(path)
                log.info("removed the old store %s", path.name)

    # -- by the clock

    async def sweep(self) -> None:
        """Delete the rows that a recovery has read before their erasure, and keep erasures of open buckets alive."""
        if self.protocol.tables.rows is None or self._lock.locked():
            return
        async with self._lock:
            for partition in self.store.owned():
                self.check_ready()
                erasures = stored_erasures(self.store, partition)
                swept = Erasures()
                swept.add(stored_erasures(self.store, partition, prefix=SWEPT_PREFIX))
                left = [erasure for erasure in erasures if not swept.has(erasure)]
                if left:
                    await self._sweep(partition, left)
                await self._keep_alive(partition, erasures)

    async def _sweep(self, partition: int, erasures: list[Erasure]) -> None:
        erased = Erasures()
        erased.add(erasures)
        keys: list[bytes] = []
        low: bytes | None = b""
        while low is not None:
            low = self._look(partition, low, erased, keys)
            await asyncio.sleep(0)
        removed = await self._delete(partition, keys, erasures)
        log.info("removed %d rows of erased users from partition %d", removed, partition)

    def _look(self, partition: int, low: bytes, erased: Erasures, keys: list[bytes]) -> bytes | None:
        """Go from user to user, adding the keys of erased rows; return where to go on, None at the end."""
        cursor = self._database(partition).iter()
        cursor.seek(low)
        for _ in range(USERS_A_SLICE):
            key = cursor.key() if cursor.valid() else None
            if key is None or key.startswith((DUPLICATE, b"\xff")):
                return None
            user, is_place = user_of(key), key.startswith(INDEX)
            if not is_place and (len(key) < HEAD_BYTES or key[len(user)] != 0):
                cursor.next()  # Faust's own key
                continue
            head = heads_of(user)[is_place]
            if erased.knows(user):
                keys.extend(self._erased_rows(partition, head, erased))
            cursor.seek(head[:-1] + b"\1")
        return bytes(cursor.key()) if cursor.valid() else None

    async def _keep_alive(self, partition: int, erasures: Iterable[Erasure]) -> None:
        """Send the erasures of a bucket that is open for long again, before any retention takes them."""
        state, now_s = self.protocol.state(partition), self.protocol.clock.monotonic_s()
        due_s = self._sent_at_s.setdefault(partition, now_s) + self.protocol.settings.worker.horizon_s / KEEP_ALIVE_PARTS
        waiting = [erasure.row for erasure in erasures if erasure.before > state.open.number * BUCKET_OFFSETS]
        if waiting and now_s >= due_s:
            self._sent_at_s[partition] = now_s
            await self._send(partition, Batch(notes=waiting))


def compact(database: Rdict, prefixes: Sequence[bytes]) -> None:
    """Write the files anew that hold keys of *prefixes*, down to the last level; for a thread of its own."""
    options = CompactOptions()
    options.set_bottommost_level_compaction(BottommostLevelCompaction.force_optimized())
    flush(database)
    for prefix in prefixes:
        database.compact_range(prefix, prefix + b"\xff" * RANGE_BYTES, options)


def _after(head: bytes) -> tuple[bytes, bytes]:
    """Return the bounds of the keys that begin with a head, which ends in NUL."""
    return head, head[:-1] + b"\1"


def _range_of(key: bytes) -> bytes:
    head = INDEX if key.startswith(INDEX) else b""
    return head + user_of(key)[:RANGE_BYTES]
