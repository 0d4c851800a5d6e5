"""Declare what is rolled up: cells of an hour and of a day, by the kind and at most two more dimensions together. Pure.

All dimensions together would keep nearly a row an event (the spec's cardinality: 0.7 cells an event in a minute, 0.6 in an
hour), so that a question about a year could not be answered. A slice keeps the kind and a few others; what a question filters
and groups by decides which slice answers it. Of one unit the cells lie by the day on which their events arrived, like those of
minutes: what arrives later touches no older row, and a day of minutes can be dropped when its hours are whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations
from typing import NamedTuple

from streams.errors import TallyError
from streams.topics import Stream

DIMENSIONS_MAX = 2
"""Dimensions beside the kind that a rollup keeps together."""
HOUR_S = 3_600
DAY_S = 86_400


class TooManyDimensionsError(TallyError):
    """A question needs more dimensions together than rollups keep."""


class Slice(NamedTuple):
    """One set of dimensions that cells are kept by.

    Attributes:
        number: bit n is set where the n-th of the stream's dimensions other than the kind is kept; stored, so never changed.
        dimensions: the kind first.
    """

    number: int
    dimensions: tuple[str, ...]


def others_of(stream: Stream) -> tuple[str, ...]:
    """Return the dimensions but for the kind, in the order of their bits.

    >>> from streams.topics import USER_TAGS
    >>> others_of(USER_TAGS)
    ('origin', 'brand_id', 'category_id')
    """
    return tuple(name for name in stream.dimensions if name != stream.kind)


def slices(stream: Stream) -> tuple[Slice, ...]:
    """Return every slice that is kept.

    >>> from streams.topics import USER_TAGS
    >>> [slice.number for slice in slices(USER_TAGS)]
    [0, 1, 2, 4, 3, 5, 6]
    """
    others = others_of(stream)
    sets = (kept for size in range(DIMENSIONS_MAX + 1) for kept in combinations(others, size))
    return tuple(slice_of(stream, kept) for kept in sets)


def slice_of(stream: Stream, needed: Iterable[str]) -> Slice:
    """Return the smallest slice that has the dimensions *needed*.

    Raises:
        TooManyDimensionsError: none has all of them.
    """
    wanted = set(needed)
    kept = [name for name in others_of(stream) if name in wanted]
    if len(kept) > DIMENSIONS_MAX:
        raise TooManyDimensionsError(
            f"over so long a range at most {DIMENSIONS_MAX} of {', '.join(others_of(stream))} can be asked together"
        )
    return Slice(sum(1 << others_of(stream).index(name) for name in kept), (stream.kind, *kept))


def hours_sql(stream: Stream) -> str:
    """Return the name of the table of hours.

    >>> from streams.topics import USER_TAGS
    >>> hours_sql(USER_TAGS), days_sql(USER_TAGS), touched_sql(USER_TAGS), rolled_sql(hours_sql(USER_TAGS))
    ('hour_cells', 'day_cells', 'hour_cells_touched', 'hour_cells_rolled')
    """
    return _named(stream, "hour")


def days_sql(stream: Stream) -> str:
    """Return the name of the table of days."""
    return _named(stream, "day")


def touched_sql(stream: Stream) -> str:
    """Return the name of the table that counts how often the minutes of each hour were written."""
    return f"{hours_sql(stream)}_touched"


def rolled_sql(table: str) -> str:
    """Return the name of the table that says of each hour or day which state of the minutes is rolled up."""
    return f"{table}_rolled"


def _named(stream: Stream, unit: str) -> str:
    return stream.cells_sql.replace("minute", unit) if "minute" in stream.cells_sql else f"{unit}_{stream.cells_sql}"
