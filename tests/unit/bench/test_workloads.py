"""What a backlog holds: the same for the same workload, and what its name says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import msgspec
import pytest

from bench.backlogs import Ledger, template_name
from bench.workloads import EVENTS_MIN, FEW, HOT_COOKIE, HOT_ORIGIN, MANY, Workload, events_of
from load.events import START_MS, Mix
from streams.codecs import Codec
from streams.event_time import MINUTE_MS
from streams.topics import USER_TAGS

COUNT = 20_000


def some(workload: Workload, count: int = COUNT) -> Workload:
    return replace(workload, events=count)


def bodies(workload: Workload) -> Iterator[dict[str, object]]:
    return (msgspec.json.decode(event.body) for event in events_of(workload))


def cells_of(workload: Workload) -> set[tuple[object, ...]]:
    found: set[tuple[object, ...]] = set()
    for body in bodies(workload):
        product = body["product_info"]
        assert isinstance(product, dict)
        found.add((body["action"], body["origin"], product["brand_id"], product["category_id"]))
    return found


@pytest.mark.parametrize("cells", [1, 2, 100, 1_000])
def test_workload_has_as_many_cells_as_it_says(cells: int) -> None:
    """Twenty events a cell on the average leave none out; the seed decides, so always or never."""
    assert len(cells_of(replace(MANY, events=max(1_000, 20 * cells), cells=cells))) == cells


def test_many_has_the_cells_of_the_spec() -> None:
    """0.7 cells an event and minute, over all partitions: what every program of this job has to keep."""
    workload = some(MANY, int(MINUTE_MS / MANY.step_ms))
    assert 0.68 < len(cells_of(workload)) / workload.events < 0.78


def test_hot_cookie_has_a_tenth_of_all_events() -> None:
    """A20: the share that its name promises."""
    (_, most), *_ = Counter(event.cookie for event in events_of(some(HOT_COOKIE))).most_common(1)
    assert 0.09 < most / COUNT < 0.11


def test_hot_origin_has_all_events() -> None:
    """A20: one origin, and everything else as usual."""
    assert {body["origin"] for body in bodies(some(HOT_ORIGIN, 1_000))} == {HOT_ORIGIN.origin}


@pytest.mark.parametrize("workload", [MANY, FEW, HOT_COOKIE, HOT_ORIGIN], ids=lambda workload: workload.name)
def test_every_event_is_valid(workload: Workload) -> None:
    """A refused event is cheap: it would make the figures better."""
    decode = Codec(USER_TAGS).decode
    for event in events_of(some(workload, 500)):
        assert decode(event.body)[1] == event.at_ms


def test_ledger_tells_what_was_sent() -> None:
    """It is what answers are held against."""
    ledger = Ledger()
    sent = list(events_of(replace(MANY, events=1_000, step_ms=120.0, mix=Mix(cookies=3))))
    for event in sent:
        ledger.add(event)
    manifest = ledger.manifest()
    assert sum(count for _, _, count, _ in manifest["totals"]) == 1_000
    prices = [msgspec.json.decode(event.body)["product_info"]["price"] for event in sent]
    assert sum(total for _, _, _, total in manifest["totals"]) == sum(prices)
    assert {minute for minute, *_ in manifest["totals"]} == {START_MS // MINUTE_MS, START_MS // MINUTE_MS + 1}
    assert sum(manifest["user_events"].values()) == sum(event.cookie.decode() == manifest["user"] for event in sent)


def test_another_backlog_has_another_template() -> None:
    """A template that outlives its generator would be measured for years."""
    names = {
        template_name(MANY, kafka="4.1.0"),
        template_name(MANY, kafka="4.2.0"),
        template_name(replace(MANY, step_ms=0.25), kafka="4.1.0"),
        template_name(replace(MANY, mix=Mix(skew=0.5)), kafka="4.1.0"),
        template_name(some(MANY), kafka="4.1.0"),
    }
    assert len(names) == 5
    assert template_name(MANY, kafka="4.1.0") in names


def test_scale_makes_everything_smaller_but_not_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial on a laptop; what takes seconds must still be measurable."""
    monkeypatch.setenv("SCALE", "0.1")
    assert MANY.sized(1_000_000).events == 100_000
    assert MANY.sized(30_000).events == EVENTS_MIN
    assert MANY.sized(1_000).events == 1_000
