"""What a backlog holds, as data, and the events of it: the same for the same workload, from one seed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import numpy as np

from load import events as generator
from load.events import CHUNK_EVENTS, GeneratedEvent, Mix, events

SEED = 1
SCALE_VARIABLE = "SCALE"
EVENTS_MIN = 20_000
"""Fewer would end before anything can be measured, whatever `SCALE` says."""
DIGEST_CHARACTERS = 10
FILLED_AS = "lz4, batches of 1 MiB, murmur2"
"""How bench/backlogs.py fills a topic: another way is another backlog."""
_ACTIONS = ("VIEW", "BUY")


def scale() -> float:
    """Return the part of the usual events that is asked for; below 1 only shows that everything works."""
    return float(os.environ.get(SCALE_VARIABLE) or 1)


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One backlog.

    Attributes:
        events: how many; `sized` makes the same of another size.
        step_ms: by how much the events' times rise. At 0.5 two minutes' worth of the spec's traffic shares a minute.
        cells: distinct combinations of dimensions, all equally likely; None: as the mix draws them.
        origin: what every event has for an origin; empty: as the mix draws it.
    """

    name: str
    events: int = 2_000_000
    mix: Mix = field(default_factory=Mix)
    partitions: int = 4
    step_ms: float = 0.5
    cells: int | None = None
    origin: str = ""

    def sized(self, count: int) -> Workload:
        """Return the same workload with *count* events, times the `SCALE` of the environment."""
        return replace(self, events=max(min(EVENTS_MIN, count), int(count * scale())))


MANY = Workload(name="many").sized(2_000_000)
"""The spec's cardinality: 0.73 cells an event by minute, 0.94 by minute and bucket; a million users."""
FEW = replace(MANY, name="few", cells=2)
HOT_COOKIE = replace(MANY, name="hot-cookie", mix=Mix(hot_cookies=1, hot_cookie_share=0.1))
HOT_ORIGIN = replace(MANY, name="hot-origin", origin="CAMPAIGN_0")


def events_of(workload: Workload) -> Iterator[GeneratedEvent]:
    """Yield the events of a workload, in the order they are sent."""
    drawn = events(SEED, count=workload.events, step_ms=workload.step_ms, mix=workload.mix)
    if workload.cells is None and not workload.origin:
        return drawn
    return _rewritten(drawn, workload)


def digest_of(workload: Workload) -> str:
    """Return what changes when the workload or the generator does: a backlog of another digest is another backlog."""
    sources = (Path(generator.__file__), Path(__file__))
    digest = hashlib.sha256(repr((FILLED_AS, workload)).encode())
    for source in sources:
        digest.update(source.read_bytes())
    return digest.hexdigest()[:DIGEST_CHARACTERS]


def _rewritten(drawn: Iterator[GeneratedEvent], workload: Workload) -> Iterator[GeneratedEvent]:
    decode, encode = msgspec.json.Decoder().decode, msgspec.json.Encoder().encode
    for event, number in zip(drawn, _cell_numbers(workload), strict=True):
        body = decode(event.body)
        if workload.cells is not None:
            _put_into_cell(body, number)
        if workload.origin:
            body["origin"] = workload.origin
        yield GeneratedEvent(event.cookie, event.at_ms, encode(body))


def _cell_numbers(workload: Workload) -> Iterator[int]:
    chance = np.random.default_rng(SEED)
    for first in range(0, workload.events, CHUNK_EVENTS):
        count = min(CHUNK_EVENTS, workload.events - first)
        yield from chance.integers(workload.cells or 1, size=count).tolist()


def _put_into_cell(body: dict[str, object], number: int) -> None:
    """Give an event the dimensions of one of the cells, numbered from 0: actions change fastest, then origins."""
    rest, action = divmod(number, len(_ACTIONS))
    rest, origin = divmod(rest, generator.ORIGINS)
    rest, brand = divmod(rest, generator.BRANDS)
    product = body["product_info"]
    assert isinstance(product, dict)
    body["action"], body["origin"] = _ACTIONS[action], f"CAMPAIGN_{origin}"
    product["brand_id"], product["category_id"] = f"Brand_{brand}", f"Category_{rest % generator.CATEGORIES}"
