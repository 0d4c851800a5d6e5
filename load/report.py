"""Write what a run measured: a line a second, a table and JSON at the end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from load.histogram import Histogram
from load.measures import KINDS, QUANTILES, Measures

QUANTILE_NAMES = ("p50", "p99", "p99.9")


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
    """Return the table of the whole run."""
    lines = [f"{'':12}{'requests':>10}{'a second':>10}{'p50 ms':>10}{'p99 ms':>10}{'p99.9 ms':>10}{'max ms':>10}  errors"]
    for kind in KINDS:
        whole = measures.whole[kind]
        numbers = "".join(f"{value_ms:10.2f}" for value_ms in (*quantiles_ms(whole), whole.max_s * 1000))
        causes = ", ".join(f"{count} {cause}" for cause, count in measures.errors[kind].most_common()) or "0"
        lines.append(f"{kind:12}{whole.count:10}{whole.count / elapsed_s:10.1f}{numbers}  {causes}")
    return "\n".join(lines)


def as_json(measures: Measures, elapsed_s: float) -> dict[str, Any]:
    """Return the whole run as data: by kind, latencies in milliseconds, errors by cause."""
    return {
        "seconds": elapsed_s,
        **{
            kind: {
                "requests": measures.whole[kind].count,
                **dict(zip([f"{name}_ms" for name in QUANTILE_NAMES], quantiles_ms(measures.whole[kind]), strict=True)),
                "max_ms": measures.whole[kind].max_s * 1000,
                "errors": dict(measures.errors[kind]),
            }
            for kind in KINDS
        },
    }


def quantiles_ms(histogram: Histogram) -> list[float]:
    """Return p50, p99 and p99.9 in milliseconds."""
    return [histogram.quantile_s(fraction) * 1000 for fraction in QUANTILES]
