"""Answer dead letters for the page: by reason, and the newest ones, without anything that somebody sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from views.dashboard_postgres import STATEMENTS, Snapshot
from views.dashboard_queries import LettersQuery, format_second

GROUPS_MAX = 200
SAMPLES_MAX = 50
GROUP = ("reason", "stage", "count", "first_at", "last_at")
SAMPLE = ("topic", "partition", "offset", "reason", "stage", "detail", "at")


async def letters(query: LettersQuery, snapshot: Snapshot) -> dict[str, Any]:
    """Return dead letters by reason and stage, and samples of them."""
    values = {"start": query.start_s, "end": query.end_s, "reason": query.reason}
    groups = await snapshot.rows(STATEMENTS.query("letter_groups"), values | {"groups_max": GROUPS_MAX})
    samples = await snapshot.rows(STATEMENTS.query("letter_samples"), values | {"samples_max": SAMPLES_MAX})
    return {
        "source": "postgres",
        "from": format_second(query.start_s),
        "to": format_second(query.end_s),
        "groups": [_named(GROUP, [*row[:3], *map(format_second, row[3:])]) for row in groups],
        "samples": [_named(SAMPLE, [*row[:6], format_second(row[6])]) for row in samples],
    }


def letters_table(answer: dict[str, Any], *, samples: bool) -> tuple[Sequence[str], list[list[Any]]]:
    """Return heading and rows of the groups, or of the samples."""
    names, rows = (SAMPLE, answer["samples"]) if samples else (GROUP, answer["groups"])
    return names, [[row[name] for name in names] for row in rows]


def _named(names: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
    return dict(zip(names, values, strict=True))
