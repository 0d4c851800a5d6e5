"""Draw the costs of an event as bars: an SVG that is readable on light and on dark pages. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from bench.results import BASELINE, BOTH_SUFFIX, FEW_SUFFIX, OURS, OURS_BOTH, CaseResult, cost_of, show

SHOWN_OF_OURS = (OURS, OURS_BOTH)
LABEL_ENDS = ": "
"""What a peer's title says behind it is the same for all that do the same work."""
WITH_PROFILES = ", with profiles"
WIDTH = 760
LABEL_WIDTH = 330
BAR_HEIGHT = 20
ROW_HEIGHT = 30
TOP = 62
BOTTOM = 40
VALUE_ROOM = 70
LEAST_US = 1.0
SUBTITLE = "others count aggregates alone, or as named; logarithmic, a line is ten times the last; without the broker"
STYLE = """\
text { font: 13px system-ui, sans-serif; fill: #1f2328; }
.title { font-size: 15px; font-weight: 600; }
.quiet { font-size: 11px; fill: #59636e; }
.grid { stroke: #8b949e; stroke-opacity: .35; }
.ours { fill: #0969da; } .other { fill: #8c959f; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; } .quiet { fill: #9198a1; }
  .ours { fill: #4493f8; } .other { fill: #6e7681; }
}"""


@dataclass(frozen=True)
class Bar:
    """One program's cost of an event, µs of CPU."""

    label: str
    value_us: float
    is_ours: bool = False


def bars_of(results: Iterable[CaseResult]) -> list[Bar]:
    """Return a bar for the cost of an event of ours, of the baseline and of the peers, all with many cells; cheapest first."""
    bars = []
    for result in results:
        cost = cost_of(result)
        is_ours = result.name in SHOWN_OF_OURS
        is_other = (result.is_peer or result.name == BASELINE) and not result.name.endswith(FEW_SUFFIX)
        if cost is not None and (is_ours or is_other):
            label = f"Tally, {result.title}" if is_ours else result.title
            does_more = WITH_PROFILES if is_other and result.name.endswith(BOTH_SUFFIX) else ""
            bars.append(Bar(label.partition(LABEL_ENDS)[0] + does_more, cost, is_ours))
    return sorted(bars, key=lambda bar: bar.value_us)


def svg(bars: Sequence[Bar], *, note: str) -> str:
    """Return the picture; *note* says when and on what it was measured. The axis is logarithmic, and says so."""
    height = TOP + ROW_HEIGHT * len(bars) + BOTTOM
    powers = range(math.floor(math.log10(LEAST_US)), _last_power(bars) + 1)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="CPU time of an event">',
        f"<style>{STYLE}</style>",
        '<text class="title" x="12" y="24">CPU time of one event, µs; less is better</text>',
        f'<text class="quiet" x="12" y="42">{SUBTITLE}</text>',
        *(_grid_line(power, powers[-1], height) for power in powers),
        *(_bar(index, bar, powers[-1]) for index, bar in enumerate(bars)),
        f'<text class="quiet" x="12" y="{height - 10}">{escape(note)}</text>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _last_power(bars: Sequence[Bar]) -> int:
    return max(1, math.ceil(math.log10(max((bar.value_us for bar in bars), default=LEAST_US))))


def _x(value_us: float, last_power: int) -> float:
    """Return where a value lies on the axis, pixels from its start."""
    first = math.log10(LEAST_US) - 0.3  # so that a bar of the least value still is one
    part = (math.log10(max(value_us, LEAST_US)) - first) / (last_power - first)
    return round(part * (WIDTH - LABEL_WIDTH - VALUE_ROOM), 1)


def _grid_line(power: int, last_power: int, height: int) -> str:
    x, end = LABEL_WIDTH + _x(10**power, last_power), height - BOTTOM
    line = f'<line class="grid" x1="{x}" x2="{x}" y1="{TOP - 6}" y2="{end + 2}"/>'
    return f'{line}<text class="quiet" x="{x}" y="{end + 15}" text-anchor="middle">{10**power}</text>'


def _bar(index: int, bar: Bar, last_power: int) -> str:
    y, width = TOP + ROW_HEIGHT * index, _x(bar.value_us, last_power)
    kind = "ours" if bar.is_ours else "other"
    text_y = y + BAR_HEIGHT - 5
    return (
        f'<text x="{LABEL_WIDTH - 8}" y="{text_y}" text-anchor="end">{escape(bar.label)}</text>'
        f'<rect class="{kind}" x="{LABEL_WIDTH}" y="{y}" width="{width}" height="{BAR_HEIGHT}" rx="2"/>'
        f'<text x="{LABEL_WIDTH + width + 6}" y="{text_y}">{show(bar.value_us)}</text>'
    )
