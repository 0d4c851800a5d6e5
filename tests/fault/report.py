"""Write the table of a run."""

from __future__ import annotations

from collections.abc import Sequence

from tests.fault.runner import Result

HEADS = ("case", "events", "acknowledged", "unknown", "replayed", "stall s", "silence s", "recover s", "took s", "exact")


def table_of(results: Sequence[Result]) -> list[str]:
    """Return the lines of the table, the titles of the cases at their ends."""
    rows = [HEADS, *(_row_of(result) for result in results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADS))]
    titles = ["fault", *(result.case.title for result in results)]
    return [
        "  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)) + f"  {title}"
        for row, title in zip(rows, titles, strict=True)
    ]


def _row_of(result: Result) -> tuple[str, ...]:
    seconds = (result.stall_s, result.silence_s, result.recover_s, result.took_s)
    return (
        result.case.id,
        *(f"{number:,}" for number in (result.events, result.acknowledged, result.unknown, result.replayed)),
        *("-" if value is None else f"{value:.1f}" for value in seconds),
        "yes" if result.is_exact else "NO",
    )


def last_line(results: Sequence[Result], *, skipped: int = 0) -> str:
    """Return how many cases were run and how many of them were exact; how many at a second try or skipped, if any."""
    line = f"{len(results)} cases, {sum(result.is_exact for result in results)} exact"
    again = sum(result.tries > 1 for result in results)
    return line + (f", {again} run twice" if again else "") + (f", {skipped} skipped" if skipped else "")
