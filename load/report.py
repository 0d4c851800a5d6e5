"""Write what a run measured: a line a second, a table and JSON at the end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from load.histogram import Histogram
from load.measures import KINDS, LATE, QUANTILES, WRONG, Measures
from load.score import Score

QUANTILE_NAMES = ("p50", "p99", "p99.9")
COLUMNS = ("requests", "a second", "p50 ms", "p99 ms", "p99.9 ms", "max ms", "wrong", "late", "dropped")


def live_line(elapsed_s: float, recent: Mapping[str, Histogram], *, interval_s: float, errors: int, waiting: int) -> str:
    """Return the line of the last *interval_s* seconds: rate and p50/p99/p99.9 (ms) of each kind."""
    parts = [f"{elapsed_s:5.0f} s"]
    for kind in KINDS:
        histogram = recent[kind]
        latencies = "/".join(f"{value_ms:.1f}" for value_ms in quantiles_ms(histogram)) if histogram.count else "-"
        parts.append(f"{kind} {histogram.count / interval_s:.0f}/s {latencies} ms")
    parts.append(f"errors {errors}  waiting {waiting}")
    return "  |  ".join(parts)


def table(measures: Measures, elapsed_s: float) -> str:
    """Return the table of the whole run, with the causes of what was dropped and the first wrong answers."""
    lines = [" " * 12 + "".join(f"{name:>10}" for name in COLUMNS)]
    for kind in KINDS:
        whole, errors = measures.whole[kind], measures.errors[kind]
        numbers = "".join(f"{value_ms:10.2f}" for value_ms in (*quantiles_ms(whole), whole.max_s * 1000))
        counts = f"{errors[WRONG]:10}{errors[LATE]:10}{measures.dropped(kind):10}"
        causes = ", ".join(f"{count} {cause}" for cause, count in errors.most_common() if cause not in (WRONG, LATE))
        lines.append(f"{kind:12}{whole.count:10}{whole.count / elapsed_s:10.1f}{numbers}{counts}  {causes}".rstrip())
    return "\n".join((*lines, *(f"wrong: {example}" for example in measures.examples)))


def as_json(measures: Measures, elapsed_s: float, *, cpu_s: float = 0.0, score: Score | None = None) -> dict[str, Any]:
    """Return the whole run as data: by kind, latencies in milliseconds, errors by cause; *cpu_s* is the generator's own."""
    return {
        "seconds": elapsed_s,
        "cpu_s": cpu_s,
        "score": None if score is None else {"points": score.points, **vars(score)},
        **{
            kind: {
                "requests": measures.whole[kind].count,
                **dict(zip([f"{name}_ms" for name in QUANTILE_NAMES], quantiles_ms(measures.whole[kind]), strict=True)),
                "max_ms": measures.whole[kind].max_s * 1000,
                "wrong": measures.errors[kind][WRONG],
                "late": measures.errors[kind][LATE],
                "dropped": measures.dropped(kind),
                "errors": {cause: count for cause, count in measures.errors[kind].items() if count},
            }
            for kind in KINDS
        },
    }


def quantiles_ms(histogram: Histogram) -> list[float]:
    """Return p50, p99 and p99.9 in milliseconds."""
    return [histogram.quantile_s(fraction) * 1000 for fraction in QUANTILES]
