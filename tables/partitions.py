"""What a worker keeps in memory of one source partition: the open bucket, and where it continues.

Only the protocol touches it, and leaves it consistent at every await. Views read the store: what they show is acknowledged.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from streams.topics import BUCKET_OFFSETS, Stream
from tables.blocks import OpenBucket
from tables.duplicates import Submissions
from tables.erasures import Erasures

NEVER = -1
"""No seek has this number."""


@dataclass(slots=True)
class PartitionState:
    """The volatile side of one partition; all of it can be folded again from the source.

    Attributes:
        epoch: the seek that `next` continues from; -1 before the first.
        next: source offset after the last one folded.
        open: the bucket that `next` lies in.
        folding: whether a batch is between its first fold and its sending; a partial version must not overtake it.
        known: offset before which everything was stored when the epoch began: an earlier life has judged it.
        dirty: whether something was folded since the open bucket was last sent.
        emitted_at_s: when it was last sent, monotonic seconds.
        unseen_ms: when Kafka took the oldest record that no block shows yet, Unix time; 0 where there is none.
        erased: whose rows must not be made again.
        submissions: which of them came before; None for a stream where two equal events are two.
        lock: keeps the order of sending the order of finishing.
        tail: the last batch that was sent; it finishes after all before it.
    """

    partition: int
    stream: Stream
    epoch: int = NEVER
    next: int = 0
    known: int = 0
    open: OpenBucket = field(init=False)
    folding: bool = False
    dirty: bool = False
    emitted_at_s: float = 0.0
    unseen_ms: int = 0
    erased: Erasures = field(default_factory=Erasures)
    submissions: Submissions | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    tail: asyncio.Future[None] | None = None

    def __post_init__(self) -> None:
        self.open_bucket(0)
        if self.stream.id:
            self.submissions = Submissions(self.stream, self.erased)

    def open_bucket(self, number: int) -> None:
        """Begin a bucket, empty."""
        self.open = OpenBucket(number, len(self.stream.sums))

    def abandon(self) -> None:
        """Give up what was folded and not sent: the partition was taken away in the middle of a batch."""
        self.epoch, self.dirty, self.folding = NEVER, False, False

    def begin(self, epoch: int, position: int) -> None:
        """Start a new epoch at a position, its bucket empty."""
        self.epoch, self.next, self.dirty, self.unseen_ms = epoch, position, False, 0
        self.open_bucket(position // BUCKET_OFFSETS)

    @property
    def through(self) -> int:
        """Last offset that the open bucket holds; before its start when it holds nothing."""
        return max(min(self.next, self.open.end), self.open.counted) - 1
