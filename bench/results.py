"""Put runs together: least, median and greatest of each figure, as a table for people and JSON for machines. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from bench.case import Case, Figure
from bench.progress import CPU_UNIT

COLUMNS = ("case", "figure", "least", "median", "greatest", "unit", "goal", "runs")
NUMBERS = ("least", "median", "greatest", "goal", "runs")
NO_GOAL = "–"
OURS, OURS_FEW, OURS_BOTH = "aggregates", "aggregates_few", "both"
FEW_SUFFIX, BOTH_SUFFIX = "_few", "_both"
BASELINE = "idiomatic"
REACHED, MISSED = "yes", "no"


@dataclass(frozen=True)
class Summary:
    """One figure over all runs of a case; goals are judged by the median."""

    name: str
    unit: str
    values: tuple[float, ...]
    goal: float | None = None
    more_is_better: bool = False

    @property
    def median(self) -> float:
        return median(self.values)

    @property
    def is_reached(self) -> bool | None:
        """Say whether the median reaches the goal; None where there is none."""
        if self.goal is None:
            return None
        return self.median >= self.goal if self.more_is_better else self.median <= self.goal


@dataclass(frozen=True)
class CaseResult:
    """What all runs of one case showed; *failed* counts those that showed nothing."""

    name: str
    title: str
    is_peer: bool
    summaries: tuple[Summary, ...]
    failed: int = 0
    loads: tuple[float, ...] = ()


def summarize(case: Case, runs: Sequence[Iterable[Figure]], *, failed: int = 0, loads: Sequence[float] = ()) -> CaseResult:
    """Return the summary of a case; figures keep the order in which they first appear.

    Args:
        runs: the figures of each run that went well.
        loads: the machine's load average before each run.
    """
    values: dict[str, list[float]] = {}
    first: dict[str, Figure] = {}
    for figures in runs:
        for figure in figures:
            first.setdefault(figure.name, figure)
            values.setdefault(figure.name, []).append(figure.value)
    summaries = tuple(
        Summary(name, first[name].unit, tuple(found), first[name].goal, first[name].more_is_better)
        for name, found in values.items()
    )
    return CaseResult(case.name, case.title, case.is_peer, summaries, failed, tuple(loads))


def table(results: Iterable[CaseResult]) -> str:
    """Return a Markdown table, aligned, so that a terminal shows it as well."""
    rows = [row for result in results for row in _rows(result)]
    widths = [max(len(row[index]) for row in (COLUMNS, *rows)) for index in range(len(COLUMNS))]
    marks = [("-" * (width - 1) + ":") if name in NUMBERS else "-" * width for name, width in zip(COLUMNS, widths, strict=True)]
    return "\n".join(_line(row, widths) for row in (COLUMNS, marks, *rows))


def ratios(results: Sequence[CaseResult]) -> list[str]:
    """Return a line for each other program of the same run: how often ours it costs, on the same backlog."""
    costs = {result.name: cost for result in results if (cost := cost_of(result)) is not None}
    return [
        f"{result.title}: {show(costs[result.name] / costs[ours])} times the CPU of {ours}"
        for result in results
        if (result.is_peer or result.name == BASELINE) and result.name in costs and (ours := counterpart(result)) in costs
    ]


def counterpart(result: CaseResult) -> str:
    """Return the name of our case that does the same work on the same backlog."""
    if result.name.endswith(BOTH_SUFFIX):
        return OURS_BOTH
    return OURS_FEW if result.name.endswith(FEW_SUFFIX) else OURS


def cost_of(result: CaseResult) -> float | None:
    """Return the median cost of an event, µs of CPU; None where the case tells none, or several."""
    costs = [summary.median for summary in result.summaries if summary.unit == CPU_UNIT]
    return costs[0] if len(costs) == 1 else None


def _rows(result: CaseResult) -> Iterable[Sequence[str]]:
    runs_wanted = f" of {len(result.loads)}" if result.failed else ""
    if not result.summaries:
        yield result.name, "no run showed anything" if result.failed else "left out", "", "", "", "", "", f"0{runs_wanted}"
    for summary in result.summaries:
        low, middle, high = (show(value) for value in (min(summary.values), summary.median, max(summary.values)))
        runs = f"{len(summary.values)}{runs_wanted}"
        yield result.name, summary.name, low, middle, high, summary.unit, _show_goal(summary), runs


def _show_goal(summary: Summary) -> str:
    if summary.goal is None:
        return NO_GOAL
    sign = "≥" if summary.more_is_better else "≤"
    return f"{sign} {show(summary.goal)}: {REACHED if summary.is_reached else MISSED}"


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = (
        text.rjust(width) if name in NUMBERS else text.ljust(width)
        for text, width, name in zip(row, widths, COLUMNS, strict=True)
    )
    return f"| {' | '.join(cells)} |"


def show(value: float) -> str:
    """Return a number with three digits that say something.

    >>> show(0.01234), show(4.5678), show(45.67), show(123456.7)
    ('0.0123', '4.57', '45.7', '123,457')
    """
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 1 else f"{value:.3g}"


def as_json(results: Iterable[CaseResult], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return results by case, each with the *facts* of its own machine and moment, so that files of several runs can merge."""
    return {
        result.name: {
            "title": result.title,
            "is_peer": result.is_peer,
            "failed_runs": result.failed,
            "load_before": [round(load, 2) for load in result.loads],
            "facts": dict(facts),
            "figures": [_as_json(summary) for summary in result.summaries],
        }
        for result in results
    }


def _as_json(summary: Summary) -> dict[str, Any]:
    return {
        "name": summary.name,
        "unit": summary.unit,
        "least": min(summary.values),
        "median": summary.median,
        "greatest": max(summary.values),
        "runs": list(summary.values),
        "goal": summary.goal,
        "more_is_better": summary.more_is_better,
        "is_reached": summary.is_reached,
    }


def from_json(name: str, entry: Mapping[str, Any]) -> CaseResult:
    """Return what `as_json` made an entry of."""
    summaries = tuple(
        Summary(figure["name"], figure["unit"], tuple(figure["runs"]), figure["goal"], figure["more_is_better"])
        for figure in entry["figures"]
    )
    return CaseResult(name, entry["title"], entry["is_peer"], summaries, entry["failed_runs"], tuple(entry["load_before"]))
