"""Say what a schedule is about: which stream is counted, what comes, and what must become of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from faust.types import TP

from streams.codecs import Codec
from streams.topics import EVENTS, USER_TAGS, Stream, changelog_of
from tables.fold import Fold
from tables.profiles import RowCodec
from tests.simulation.checks import check_exact
from tests.simulation.events import PARTITIONS, SourceRecord, some_records
from tests.simulation.submissions import check_submissions, some_submissions


@dataclass(frozen=True)
class Subject:
    """One stream, its events and its checks.

    Attributes:
        some_records: makes the records of one partition.
        check: compares everything that counts with the source, at the end of a schedule.
        has_sinks: whether sinks run beside the workers.
    """

    stream: Stream
    some_records: Callable[[Random, int, int], list[SourceRecord]]
    check: Callable[[Any], None]
    has_sinks: bool

    def __post_init__(self) -> None:
        object.__setattr__(self, "fold", Fold(Codec(self.stream), RowCodec(self.stream)))
        object.__setattr__(self, "sources", [TP(self.stream.topic, partition) for partition in range(PARTITIONS)])
        object.__setattr__(self, "blocks", changelog_of(self.stream.blocks_table))
        object.__setattr__(self, "rows", changelog_of(self.stream.rows_table))

    fold: Fold = None  # type: ignore[assignment] # made of the stream, as all that follows
    sources: tuple[TP, ...] = ()
    blocks: str = ""
    rows: str = ""


TAGS = Subject(USER_TAGS, some_records, check_exact, has_sinks=True)
SUBMISSIONS = Subject(EVENTS, some_submissions, check_submissions, has_sinks=False)
