"""Answer what was counted over a range: from the tables of all workers, or from Postgres, and say up to when."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from time import perf_counter
from typing import Any, NamedTuple

from streams.clock import Clock
from streams.errors import IncompleteAnswerError
from streams.rollups import DAY_S, HOUR_S
from views.dashboard_answers import (
    Answer,
    Standing,
    format_series,
    format_top,
    keys_of,
    most,
    points_of,
    total_of,
)
from views.dashboard_cells import SERIES_KEYS_MAX, Cells, NotKeptError
from views.dashboard_postgres import Reports, Snapshot
from views.dashboard_pulse import Pulse
from views.dashboard_queries import MINUTE_S, CellsQuery, Choice, Source, choose, in_steps
from views.dashboard_scan import MinuteTotals, Scan, merge_series, merge_sums
from views.owners import PEER_TIMEOUT_S, Owners
from views.queries import BadQueryError

STEPS_S = (MINUTE_S, HOUR_S, DAY_S)
WRITTEN_TIMEOUT_S = 2.0
Fields = dict[str, Any]


class FromTables(NamedTuple):
    """What the owners that answered have found, up to when, and which partitions are missing."""

    found: list[Any]
    as_of_ms: int | None
    missing: list[int]


class History:
    """The answers of one stream; `sums_here` and `series_here` are what other workers ask for."""

    def __init__(self, owners: Owners, pulse: Pulse, reports: Reports, *, horizon_s: int, clock: Clock) -> None:
        self._owners = owners
        self._pulse = pulse
        self._reports = reports
        self._stream = pulse.tables.stream
        self._totals = MinuteTotals(pulse.tables)
        self._cells = Cells(self._stream)
        self._horizon_s = horizon_s
        self._clock = clock

    @property
    def now_s(self) -> int:
        """Seconds since 1970."""
        return self._clock.now_ms() // 1000

    async def series(self, query: CellsQuery) -> Answer:
        """Return points over time.

        Raises:
            BadQueryError, TooManyDimensionsError: the question cannot be answered as it is.
            PostgresUnavailableError, IncompleteAnswerError: nobody answers.
        """
        started_s = perf_counter()
        choice = choose(query, now_s=self.now_s, horizon_s=self._horizon_s)
        if choice.source is Source.TABLES:
            told_apart, answers = await self._series_of_tables(query, choice)
            merged = merge_series(answers.found)
            points = {minute * MINUTE_S: rows for minute, rows in merged.items()}
            standing = _standing(started_s, answers.as_of_ms, answers.missing)
            return format_series(self._stream, told_apart, points, choice, standing)
        rows, choice, as_of_ms = await self._of_postgres(query, choice, self._cells.series)
        if query.by is None:
            rows = [(start, ALL, *totals) for start, _, *totals in rows]
        keys = [ALL] if query.by is None else keys_of(rows)
        points = points_of(keys, rows)
        shown: Sequence[str | None] = [None] if query.by is None else keys
        return format_series(self._stream, shown, points, choice, _standing(started_s, as_of_ms))

    async def top(self, query: CellsQuery) -> Answer:
        """Return the values of a dimension that count most; raises as `series`."""
        started_s = perf_counter()
        choice = choose(query, now_s=self.now_s, horizon_s=self._horizon_s)
        if choice.source is Source.TABLES:
            answers = await self._ask_tables("sums", query, choice, [])
            sums = merge_sums(answers.found)
            total, rows = total_of(self._stream, sums.values()), most(sums, rows=query.rows)
            head = choice, _standing(started_s, answers.as_of_ms, answers.missing)
            return format_top(self._stream, query, total, rows, head)
        found, choice, as_of_ms = await self._of_postgres(query, choice, self._cells.top)
        total = next((list(totals) for is_total, _, *totals in found if is_total), total_of(self._stream, ()))
        rows = [(key, list(totals)) for is_total, key, *totals in found if not is_total]
        return format_top(self._stream, query, total, rows, (choice, _standing(started_s, as_of_ms)))

    # -- from the tables

    async def _series_of_tables(self, query: CellsQuery, choice: Choice) -> tuple[list[str | None], FromTables]:
        """Ask which values count most, then for their points; of none told apart, for the points of all."""
        if query.by is None:
            answers = await self._ask_tables("series", query, choice, [])
            return [None], answers._replace(found=[_with_no_others(part) for part in answers.found])
        sums = merge_sums((await self._ask_tables("sums", query, choice, [])).found)
        keys: list[str] = [key for key, _ in most(sums, rows=SERIES_KEYS_MAX)]
        return list(keys), await self._ask_tables("series", query, choice, keys)

    async def _ask_tables(self, what: str, query: CellsQuery, choice: Choice, keys: list[str]) -> FromTables:
        scan = self._scan_of(query, choice)
        fields: Fields = {"scan": list(scan), "keys": keys}
        here = self.sums_here if what == "sums" else self.series_here
        parts = await self._owners.ask_some(
            f"internal/{what}", fields, lambda mine: here(fields, mine), timeout_s=PEER_TIMEOUT_S
        )
        answers = [part.answer for part in parts if part.answer is not None]
        if not answers:
            raise IncompleteAnswerError("no worker answers for any partition")
        for answer in answers:
            if answer["error"] is not None:
                raise BadQueryError(answer["error"])
        missing = sorted(partition for part in parts if part.answer is None for partition in part.partitions)
        instants = [answer["as_of_ms"] for answer in answers]
        return FromTables([answer["found"] for answer in answers], None if None in instants else min(instants), missing)

    def _scan_of(self, query: CellsQuery, choice: Choice) -> Scan:
        indexes = {name: index for index, name in enumerate(self._stream.dimensions)}
        filters = tuple(sorted((indexes[name], value) for name, value in query.filters.items()))
        by = None if query.by is None else indexes[query.by]
        return Scan(choice.start_s // MINUTE_S, choice.end_s // MINUTE_S, filters, by)

    async def sums_here(self, fields: Fields, partitions: list[int]) -> Fields:
        """Return what `sums` of this worker's partitions are, up to when they are whole."""
        scan = _read_scan(fields)
        return await self._answer_here(partitions, lambda: self._totals.sums(scan, partitions))

    async def series_here(self, fields: Fields, partitions: list[int]) -> Fields:
        """Return what the points of this worker's partitions are, up to when they are whole."""
        scan, keys = _read_scan(fields), fields["keys"]
        return await self._answer_here(partitions, lambda: self._totals.series(scan, partitions, keys))

    async def _answer_here(self, partitions: list[int], scan: Callable[[], Awaitable[Any]]) -> Fields:
        as_of_ms = self._pulse.as_of_ms(partitions)  # before the scan: what comes during it is more, never less
        try:
            return {"error": None, "as_of_ms": as_of_ms, "found": await scan()}
        except BadQueryError as error:
            return {"error": str(error), "as_of_ms": None, "found": None}

    # -- from Postgres

    async def _of_postgres(
        self,
        query: CellsQuery,
        choice: Choice,
        ask: Callable[[Snapshot, CellsQuery, Choice], Awaitable[list[tuple[Any, ...]]]],
    ) -> tuple[list[tuple[Any, ...]], Choice, int | None]:
        """Return rows, the steps that they have, and up to when they are whole; longer steps where short ones are gone."""

        async def question(snapshot: Snapshot) -> tuple[list[tuple[Any, ...]], Choice, dict[int, int]]:
            for step_s in (step for step in STEPS_S if step >= choice.step_s):
                longer = in_steps(query, Source.POSTGRES, step_s)
                try:
                    return await ask(snapshot, query, longer), longer, await self._cells.applied(snapshot)
                except NotKeptError:
                    continue
            raise AssertionError("days are always kept")

        rows, taken, applied = await self._reports.ask(question)
        return rows, taken, await self._written_up_to_ms(applied)

    async def _written_up_to_ms(self, applied: Mapping[int, int]) -> int | None:
        """Return up to when everything is in Postgres: the look at which a changelog was where it is applied to."""
        parts = await self._owners.ask_some("internal/written", {}, self._pulse.written, timeout_s=WRITTEN_TIMEOUT_S)
        instants: list[int | None] = []
        for part in parts:
            looks: Mapping[int, Sequence[Sequence[int]]] = part.answer or {}
            for partition in part.partitions:
                reached = (at for offset, at in reversed(looks.get(partition, ())) if offset < applied.get(partition, 0))
                instants.append(next(reached, None))
        return None if None in instants else min(filter(None, instants), default=None)


ALL = ""
"""Stands for the key of all values together where rows need one."""


def _standing(started_s: float, as_of_ms: int | None, missing: Sequence[int] = ()) -> Standing:
    return Standing(as_of_ms=as_of_ms, missing=missing, took_ms=(perf_counter() - started_s) * 1000)


def _read_scan(fields: Fields) -> Scan:
    start, end, filters, by = fields["scan"]
    return Scan(start, end, tuple((index, value) for index, value in filters), by)


def _with_no_others(part: Mapping[int, Sequence[list[int]]]) -> dict[int, list[list[int]]]:
    """Return points whose only line, that of the others, is the one of all."""
    return {minute: [rows[-1], [0] * len(rows[-1])] for minute, rows in part.items()}
