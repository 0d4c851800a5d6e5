"""Read the events of a body, leave out those that are known, write the others, and tell what became of each."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from gateway.auth.identity import Identity
from gateway.events_answers import DUPLICATE, Results
from gateway.events_decoding import FAST_ERRORS, Bounds, Columns, Refused, Warned, decode_all, decode_one, refused
from gateway.events_letters import letter_of
from gateway.events_recent import RecentEvents
from gateway.events_records import Records, UncutError
from gateway.events_schema import RefusedEventError
from gateway.intake import Intake
from gateway.lanes import Fate, Refusal
from gateway.request_id import RecordHeaders
from streams.clock import SYSTEM_CLOCK, Clock
from streams.metrics import GatewayMetrics
from streams.settings import Events

SLICE_BYTES_MAX = 262_144
"""What is read between two looks at other requests: 2 to 3 ms where all is plainly right."""
LARGE_BYTES = 32_768
"""An event that takes as long as a slice when it is read alone: before each others get their turn."""
SLICE_EVENTS_MIN = 16
"""A slice that is not plainly right is halved down to this, then read event by event, at some 20 µs each."""


@dataclass(slots=True)
class Read:
    """What a body holds.

    Attributes:
        warnings: by position.
    """

    records: Records = field(default_factory=Records)
    refused: list[Refused] = field(default_factory=list)
    warnings: dict[int, Warned] = field(default_factory=dict)

    def add(self, columns: Columns, identity: Identity) -> None:
        """Add events that have been decoded.

        Raises:
            gateway.auth.identity.Refused: 403; an event says that somebody else sends it.
        """
        self.refused += self.records.add(columns, identity)
        self.warnings.update(columns.warnings)


class Told:
    """The fates of records that were appended together: complete when the last one is told."""

    def __init__(self, count: int) -> None:
        self.failures: dict[int, Refusal] = {}
        self._left = count
        self._complete: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._end()

    def tell(self, fate: Fate, indices: Sequence[int]) -> None:
        """Take the fate of the records at *indices*."""
        if fate is not None:
            self.failures.update(dict.fromkeys(indices, fate))
        self._left -= len(indices)
        self._end()

    def tell_one(self, index: int, fate: Fate) -> None:
        """Take the fate of one record."""
        self.tell(fate, (index,))

    async def wait(self) -> dict[int, Refusal]:
        """Return why records are not known to be stored, by index, when all fates are told."""
        await self._complete
        return self.failures

    def _end(self) -> None:
        if self._left <= 0 and not self._complete.done():
            self._complete.set_result(None)


class EventTaker:
    """Takes the events of `/v1/events` and `/v1/beacon`: they share what it remembers."""

    def __init__(
        self, intake: Intake, letters: Intake, metrics: GatewayMetrics, settings: Events, *, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        """Take events by *intake*, and by *letters* those that are dropped beside others that are not."""
        self._intake = intake
        self._letters = letters
        self._metrics = metrics
        self._bounds = Bounds(round(settings.time_past_s * 1000), round(settings.time_future_s * 1000))
        self._recent = RecentEvents(settings.recent_events_max)
        self._clock = clock

    def refusal(self) -> Refusal | None:
        """Return why no event can be taken now, or None."""
        return self._intake.refusal()

    def read_at_once(self, columns: Columns, identity: Identity) -> Read | None:
        """Return events that have been decoded already, and that *identity* sends; None where they must be read one by one.

        Raises:
            gateway.auth.identity.Refused: 403; an event says that somebody else sends it.
        """
        read = Read()
        self._bounds.adjust(columns, self._clock.now_ms())
        try:
            read.add(columns, identity)
        except UncutError:
            return None
        return read

    async def read(self, documents: Sequence[bytes], identity: Identity) -> Read:
        """Return the events of documents, one an event, that *identity* sends.

        Raises:
            gateway.auth.identity.Refused: 403; an event says that somebody else sends it.
        """
        read = Read()
        size_bytes = sum(map(len, documents))
        step = max(1, SLICE_BYTES_MAX * len(documents) // max(size_bytes, 1))
        # The last slice lies on top, so that the first comes first.
        slices = [(first, documents[first : first + step]) for first in range(0, len(documents), step)][::-1]
        while slices:
            first, raws = slices.pop()
            try:
                columns = decode_all(raws, first)
            except FAST_ERRORS:
                half = len(raws) // 2
                if len(raws) > SLICE_EVENTS_MIN:
                    slices += [(first + half, raws[half:]), (first, raws[:half])]
                    continue
                await self._read_each(read, raws, first, identity)
            else:
                self._bounds.adjust(columns, self._clock.now_ms())
                read.add(columns, identity)
            if slices:
                await asyncio.sleep(0)
        return read

    async def _read_each(self, read: Read, raws: Sequence[bytes], first: int, identity: Identity) -> None:
        for position, raw in enumerate(raws, first):
            if len(raw) > LARGE_BYTES:
                await asyncio.sleep(0)
            try:
                columns = decode_one(raw, position)
            except RefusedEventError as error:
                read.refused.append(refused(raw, position, error))
            else:
                self._bounds.adjust(columns, self._clock.now_ms())
                read.add(columns, identity)

    async def store(self, read: Read, headers: RecordHeaders, letter_headers: RecordHeaders, *, waits: bool) -> Results:
        """Write what was read, at least one event of it valid; a second call is known for what it is, here or in the worker.

        Args:
            headers: of each record.
            letter_headers: of each dead letter, before its own.
            waits: until Kafka has acknowledged all, or has not in time.
        """
        known = self._recent.sort(read.records)
        self._metrics.conflicts.inc(known.conflicts)
        fresh = read.records if not known.known else read.records.keep(known.fresh)
        told, letters_told = Told(len(fresh.users)), Told(len(read.refused))
        if fresh.users:
            self._intake.append_all(list(map(str.encode, fresh.users)), fresh.values, told.tell, headers)
        for index, each in enumerate(read.refused):
            key, value, own_headers = letter_of(each, letter_headers)
            self._letters.append(key, value, partial(letters_told.tell_one, index), own_headers)
        results = Results()
        if waits or told.failures:
            self._sort(results, fresh, await told.wait(), read.warnings)
        else:
            results.queued = len(fresh.users)
        if known.known:
            written = set(fresh.names)
            names = (read.records.names[index] for index in known.known)
            results.others.update({name: DUPLICATE for name in names if name not in written})
        results.drop_all(read.refused, await letters_told.wait() if waits else {})
        return results

    def _sort(self, results: Results, fresh: Records, failures: dict[int, Refusal], warnings: dict[int, Warned]) -> None:
        """Say what became of records, and remember those that Kafka has."""
        if not failures and not warnings:
            results.stored += fresh.names
            self._recent.remember(fresh)
            return
        self._recent.remember(fresh, (index for index in range(len(fresh.names)) if index not in failures))
        for index, (position, name) in enumerate(zip(fresh.positions, fresh.names, strict=True)):
            if index in failures:
                results.retry(name, failures[index])
            elif position in warnings:
                results.warn(name, warnings[position])
            else:
                results.stored.append(name)
