"""Say what must hold: during a schedule at every append, commit and compaction; at its end in every place that counts."""

from __future__ import annotations

from collections.abc import Iterable
from operator import add
from typing import Any

from streams.topics import DEAD_LETTERS, USER_TAGS
from tables import blocks as product
from tables.blocks import PROGRESS, BlockKey, decode_block, unpack
from tables.profiles import decode_span
from tables.store import OFFSET_KEY
from tests.simulation.events import PARTITIONS, Cell, SourceRecord, totals_of
from tests.simulation.kafka import BLOCKS, ROWS, Entry, Log
from tests.simulation.stores import Database

Best = dict[tuple[int, int], tuple[int, bytes]]
"""The greatest `through` and its value by (minute, bucket)."""


def best_of(entries: Iterable[tuple[Any, ...]]) -> Best:
    """Return the greatest `through` of each block of records or of pairs whose key is fifth and value sixth."""
    best: Best = {}
    for entry in entries:
        key, value = entry[4], entry[5]
        if value is not None:
            minute, bucket, through = BlockKey.decode(key)
            if through > best.get((minute, bucket), (-1, b""))[0]:
                best[minute, bucket] = through, value
    return best


def cells_of(values: Iterable[bytes], *, sums: int) -> dict[Cell, tuple[int, ...]]:
    """Return (count, sum, …) by dimensions of blocks of one minute."""
    totals: dict[Cell, tuple[int, ...]] = {}
    for value in values:
        for dimensions, packed in decode_block(value).cells().items():
            known = totals.get(dimensions, (0,) * (1 + sums))
            totals[dimensions] = tuple(map(add, known, unpack(packed, sums=sums)))
    return totals


def totals_of_blocks(values: dict[tuple[int, int], bytes], *, sums: int = 1) -> dict[Cell, tuple[int, ...]]:
    """Return (count, sum, …) by cell of the winning blocks."""
    by_minute: dict[int, list[bytes]] = {}
    for (minute, _), value in values.items():
        if minute != PROGRESS:
            by_minute.setdefault(minute, []).append(value)
    return {
        (minute, *dimensions): total
        for minute, values in by_minute.items()
        for dimensions, total in cells_of(values, sums=sums).items()
    }


class Watch:
    """What the changelogs durably have, kept up to date by every append.

    Attributes:
        values: the value of each key ever written, by (topic, partition, key): the law says it is one.
        progress: offset before which the blocks have everything, by partition.
        stored: source offsets whose row or dead letter is in the log, by partition.
    """

    def __init__(self, world: Any) -> None:
        self.world = world
        self.values: dict[tuple[str, int, bytes], bytes] = {}
        self.progress = [0] * PARTITIONS
        self.stored: list[set[int]] = [set() for _ in range(PARTITIONS)]

    def appended(self, log: Log, base: int) -> None:
        """Look at what was just appended."""
        for entry in log.read(base, log.end - base):
            if entry.topic == DEAD_LETTERS:
                self.stored[entry.partition].add(int(dict(entry.headers)["offset"]))
            elif entry.value is not None and entry.key is not None:
                self._written(entry, entry.key, entry.value)

    def _written(self, entry: Entry, key: bytes, value: bytes) -> None:
        known = self.values.setdefault((entry.topic, entry.partition, key), value)
        if known != value:
            self.world.report(f"law: two values of the key {key.hex()} of {entry.topic}/{entry.partition}")
        if entry.topic == self.world.subject.rows:
            inverse = (1 << 63) - 1
            self.stored[entry.partition].update(inverse - int.from_bytes(row[-8:], "big") for row, _ in decode_span(value))
        elif key[:4] == b"\xff\xff\xff\xff":
            self.progress[entry.partition] = max(self.progress[entry.partition], BlockKey.decode(key).through + 1)

    def committed(self, partition: int, offset: int) -> None:
        """Compare a commit with what the changelogs have."""
        progress, stored = self.progress[partition], self.stored[partition]
        before = [record.offset for record in self.world.kafka.source[partition] if record.offset < offset]
        missing = [offset for offset in before if offset >= progress or offset not in stored]
        if missing:
            self.world.report(f"commit of {partition} at {offset}: the changelogs do not have {missing}")

    def durable(self, partition: int) -> int:
        """Return the offset before which every changelog has everything."""
        progress, stored = self.progress[partition], self.stored[partition]
        offsets = [record.offset for record in self.world.kafka.source[partition]]
        return next((offset for offset in offsets if offset < progress and offset not in stored), progress)

    def compacted(self, log: Log, before: Best) -> None:
        """Compare blocks before and after a compaction: none may fall."""
        after = best_of(log.entries)
        for block, (through, _) in before.items():
            if block[0] != PROGRESS and after.get(block, (-1,))[0] < through:
                self.world.report(f"compaction of {log.partition}: block {block} fell from {through} to {after.get(block)}")


def check_exact(world: Any) -> None:
    """Compare everything that counts with the source, for each partition."""
    for partition in range(PARTITIONS):
        records = world.kafka.source[partition]
        best = _check_changelogs(world, partition, records)
        _check_stores(world, partition, records, best)
        _check_disks(world, partition, records, best)
        _check_postgres(world, partition, records)


def _check_changelogs(world: Any, partition: int, records: list[SourceRecord]) -> dict[tuple[int, int], bytes]:
    blocks = best_of(world.kafka.logs[BLOCKS, partition].entries)
    best = {block: value for block, (_, value) in blocks.items() if block[0] != PROGRESS}
    _compare(world, f"blocks in the changelog of {partition}", totals_of_blocks(best), totals_of(records))
    rows: dict[bytes, bytes] = {}
    for entry in world.kafka.logs[ROWS, partition].entries:
        rows.update(decode_span(entry.value or b""))
    _compare(world, f"rows in the changelog of {partition}", rows, rows_of(records))
    letters = {int(dict(entry.headers)["offset"]) for entry in world.kafka.logs[DEAD_LETTERS, partition].entries}
    _compare(world, f"dead letters of {partition}", letters, {record.offset for record in records if record.template is None})
    return best


def rows_of(records: list[SourceRecord]) -> dict[bytes, bytes]:
    """Return the rows that the events must become."""
    return dict(record.row() for record in records if record.template is not None)


def _check_stores(world: Any, partition: int, records: list[SourceRecord], best: dict[tuple[int, int], bytes]) -> None:
    owner = world.workers[world.group.owners[partition]]
    database = owner.blocks.database(partition)
    winners = product.newest(owner.blocks.keys_between(partition, b"", b"\xff" * 21))
    values = {block: database.get(key) for block, key in winners.items() if block[0] != PROGRESS}
    if values != best:  # equal bytes need no second look
        _compare(world, f"blocks in the store of {partition}", totals_of_blocks(values), totals_of(records))
    rows = {key: value for key, value in owner.rows.scan(partition, b"", b"\xff" * 64) if not key.startswith(b"__")}
    _compare(world, f"rows in the store of {partition}", rows, rows_of(records))


def _check_disks(world: Any, partition: int, records: list[SourceRecord], best: dict[tuple[int, int], bytes]) -> None:
    """Compare what each worker would recover, were it given the partition now: what it remembers and what it would read."""
    for worker in world.workers:
        blocks = _recovered(worker.disk.get((USER_TAGS.blocks_table, partition)), world.kafka.logs[BLOCKS, partition])
        winners = {block: blocks[key] for block, key in product.newest(blocks).items() if block[0] != PROGRESS}
        if winners != best:
            _compare(world, f"blocks on disk {worker.number} of {partition}", totals_of_blocks(winners), totals_of(records))
        rows = _recovered(worker.disk.get((USER_TAGS.rows_table, partition)), world.kafka.logs[ROWS, partition])
        _compare(world, f"rows on disk {worker.number} of {partition}", rows, rows_of(records))


def _recovered(database: Database | None, log: Log, *, packed: bool | None = None) -> dict[bytes, bytes]:
    data = {} if database is None else dict(database.data)
    remembered = data.pop(OFFSET_KEY, None)
    for entry in log.read(0 if remembered is None else int(remembered) + 1, log.end):
        if log.topic == ROWS or packed:
            data.update(decode_span(entry.value or b""))
        elif entry.value is None:
            data.pop(entry.key or b"", None)
        else:
            data[entry.key or b""] = entry.value
    return data


def _check_postgres(world: Any, partition: int, records: list[SourceRecord]) -> None:
    totals: dict[Cell, tuple[int, int]] = {}
    for (owner, _, minute), rows in world.tables.cells.items():
        if owner == partition:
            for *dimensions, count, price in rows:
                known = totals.get((minute, *dimensions), (0, 0))
                totals[minute, *dimensions] = known[0] + int(count), known[1] + int(price)
    _compare(world, f"cells in postgres of {partition}", totals, totals_of(records))
    events = {offset: row for (owner, offset), row in world.tables.events.items() if owner == partition}
    shown = {record.offset: record.template.shown for record in records if record.template is not None}
    _compare(world, f"events in postgres of {partition}", events, shown)


def _compare(world: Any, what: str, found: Any, expected: Any) -> None:
    if found != expected:
        if isinstance(expected, set):
            missing, extra = expected - found, found - expected
        else:
            missing = {key: value for key, value in expected.items() if found.get(key) != value}
            extra = {key: value for key, value in found.items() if expected.get(key) != value}
        world.report(f"{what}: expected {missing}, found {extra}")
