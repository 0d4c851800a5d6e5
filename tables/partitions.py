"""What a worker keeps in memory of one source partition: the open bucket, and those on their way into the store.

The agents change it, the views read it; both run on one event loop and leave it consistent at every await.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field

from streams.topics import BUCKET_OFFSETS
from tables.blocks import Cells, OpenBucket


@dataclass(slots=True)
class PartitionState:
    """The volatile side of one partition; all of it can be folded again from the source.

    Attributes:
        epoch: the seek that `next` continues from; -1 before the first.
        next: source offset after the last one folded.
        open: the bucket that `next` lies in.
        closing: buckets that were sent at their end and are not yet stored; views read them from here.
        folding: whether a batch is between its first fold and its sending; a partial version must not overtake it.
        dirty: whether something was folded since the open bucket was last sent.
        emitted_at_s: when it was last sent, monotonic seconds.
        lock: keeps the order of sending the order of finishing.
        tail: the last batch that was sent; it finishes after all before it.
    """

    partition: int
    sums: int
    epoch: int = -1
    next: int = 0
    open: OpenBucket = field(init=False)
    closing: list[OpenBucket] = field(default_factory=list)
    folding: bool = False
    dirty: bool = False
    emitted_at_s: float = 0.0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    tail: asyncio.Future[None] | None = None

    def __post_init__(self) -> None:
        self.open = OpenBucket(0, self.sums)

    def begin(self, epoch: int, position: int) -> None:
        """Start a new epoch at a position, its bucket empty."""
        self.epoch, self.next, self.dirty = epoch, position, False
        self.open = OpenBucket(position // BUCKET_OFFSETS, self.sums)

    @property
    def through(self) -> int:
        """Last offset that the open bucket holds; before its start when it holds nothing."""
        return max(min(self.next, self.open.end), self.open.counted) - 1

    def cells_of(self, minute: int) -> Iterator[tuple[int, int, Cells]]:
        """Yield (bucket, through, cells) of a minute for each bucket in memory."""
        for bucket in self.closing:
            if minute in bucket.minutes:
                yield bucket.number, bucket.end - 1, bucket.minutes[minute]
        if minute in self.open.minutes:
            yield self.open.number, self.through, self.open.minutes[minute]
