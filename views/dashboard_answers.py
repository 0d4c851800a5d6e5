"""Write what was found as the page reads it: points over time, the values that count most, dead letters. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from streams.topics import Stream
from views.dashboard_queries import CellsQuery, Choice, format_second

Totals = list[int]
"""Count, then sums."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How far an answer reaches.

    Attributes:
        as_of_ms: up to when everything is in it; None where that is not known.
        missing: partitions that are not in it.
        took_ms: how long it took.
    """

    as_of_ms: int | None
    missing: Sequence[int]
    took_ms: float


Answer = dict[str, Any]


def format_standing(choice: Choice, standing: Standing) -> Answer:
    """Return what every answer with counts carries."""
    return {
        "source": choice.source,
        "from": format_second(choice.start_s),
        "to": format_second(choice.end_s),
        "step_s": choice.step_s,
        "as_of": None if standing.as_of_ms is None else format_second(standing.as_of_ms / 1000),
        "complete": not standing.missing,
        "missing_partitions": list(standing.missing),
        "took_ms": round(standing.took_ms, 1),
    }


def format_series(
    stream: Stream, keys: Sequence[str | None], points: Mapping[int, Sequence[Totals]], choice: Choice, standing: Standing
) -> Answer:
    """Return points for every step, silent ones too; after the keys' own, those of all other values together.

    Args:
        keys: None stands for all values together.
        points: by the start of the step, seconds: totals of each key, then of the others.
    """
    zeros = [[0] * (1 + len(stream.sums))] * (len(keys) + 1)
    steps = range(choice.start_s, choice.end_s, choice.step_s)
    lines = [[[start, *points.get(start, zeros)[place]] for start in steps] for place in range(len(keys) + 1)]
    others = lines.pop()
    as_of_s = choice.start_s if standing.as_of_ms is None else standing.as_of_ms // 1000
    open_s = min(max(as_of_s // choice.step_s * choice.step_s, choice.start_s), choice.end_s)
    return {
        **format_standing(choice, standing),
        "sums": list(stream.sums),
        "series": [{"key": key, "points": line} for key, line in zip(keys, lines, strict=True)],
        "others": others if any(point[1] for point in others) else None,
        "open_from": format_second(open_s),
    }


def format_top(
    stream: Stream, query: CellsQuery, total: Totals, rows: Sequence[tuple[str, Totals]], head: tuple[Choice, Standing]
) -> Answer:
    """Return the values that count most, what is left for the others, and the total."""
    shown = [(key, totals) for key, totals in rows if totals[0]][: query.rows]
    left = [value - sum(totals[place] for _, totals in shown) for place, value in enumerate(total)]
    return {
        **format_standing(*head),
        "dimension": query.by,
        "rows": [
            {"key": key, **_named(stream, totals), "share": round(totals[0] / total[0], 6) if total[0] else 0.0}
            for key, totals in shown
        ],
        "others": _named(stream, left),
        "total": _named(stream, total),
    }


def most(sums: Mapping[str | None, Totals], *, rows: int) -> list[tuple[str, Totals]]:
    """Return the values that count most; of equal ones that which sorts first."""
    ranked = sorted(((key, totals) for key, totals in sums.items() if key is not None), key=lambda each: (-each[1][0], each[0]))
    return ranked[:rows]


def total_of(stream: Stream, sums: Iterable[Totals]) -> Totals:
    """Return the sum over all values."""
    total = [0] * (1 + len(stream.sums))
    for totals in sums:
        total = [a + b for a, b in zip(total, totals, strict=True)]
    return total


def points_of(keys: Sequence[str], rows: Iterable[tuple[Any, ...]]) -> dict[int, list[Totals]]:
    """Return points out of rows of (start, key, count, sums), the key None for the others."""
    points: dict[int, list[Totals]] = {}
    for start, key, *totals in rows:
        if start not in points:
            points[start] = [[0] * len(totals) for _ in range(len(keys) + 1)]
        points[start][len(keys) if key is None else keys.index(key)] = totals
    return points


def keys_of(rows: Iterable[tuple[Any, ...]]) -> list[str]:
    """Return the keys of such rows, those that count most first."""
    counts: dict[str, int] = {}
    for _, key, count, *_ in rows:
        if key is not None:
            counts[key] = counts.get(key, 0) + count
    return sorted(counts, key=lambda key: (-counts[key], key))


def series_table(answer: Answer, *, by: str | None) -> tuple[list[str], list[list[Any]]]:
    """Return heading and rows of points, one row a step and key."""
    lines = [(line["key"], line["points"]) for line in answer["series"]]
    if answer["others"] is not None:
        lines.append(("(others)", answer["others"]))
    heading = ["at", *([] if by is None else [by]), "count", *(f"sum_{name}" for name in answer["sums"])]
    rows = [
        [format_second(start), *([] if by is None else [key]), *totals] for key, points in lines for start, *totals in points
    ]
    return heading, rows


def top_table(answer: Answer) -> tuple[list[str], list[list[Any]]]:
    """Return heading and rows of the values that count most."""
    names = list(answer["total"])
    rows = [[row["key"], *(row[name] for name in names), row["share"]] for row in answer["rows"]]
    return [answer["dimension"], *names, "share"], rows


def _named(stream: Stream, totals: Totals) -> dict[str, int]:
    return dict(zip(["count", *(f"sum_{name}" for name in stream.sums)], totals, strict=True))
