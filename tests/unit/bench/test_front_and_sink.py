"""The arithmetic of the cases of the gateway, the sinks and the queries."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import islice

import pytest

from bench.case import Figure
from bench.cases import gateway, queries, sink
from bench.tag_load import Plan, prepared

CHANGELOG = sink.Changelog(offsets=[[0, 2], [1]], cells=[[10, 30], [5]], price_sum=0)


@pytest.mark.parametrize(("next_offset", "cells"), [(0, 0), (1, 10), (2, 10), (3, 30), (9, 30)])
def test_cells_before_an_offset_are_those_of_the_blocks_below_it(next_offset: int, cells: int) -> None:
    """The next offset is that of the first record that is not written, block or progress."""
    assert CHANGELOG.cells_before(0, next_offset) == cells


def test_changelog_is_whole_when_every_partition_is_behind_its_last_block() -> None:
    """A partition that nobody has read yet is not."""
    assert CHANGELOG.cell_count == 35
    assert CHANGELOG.is_whole({0: 3, 1: 2})
    assert not CHANGELOG.is_whole({0: 3, 1: 1})
    assert not CHANGELOG.is_whole({0: 3})


def test_sink_costs_are_those_between_two_moments() -> None:
    """What was used before the first moment is the start of the process."""
    first, last = sink.Moment(100, 1.0, 5.0, 2.0), sink.Moment(1_000_100, 3.0, 5.5, 4.0)
    figures = by_name(sink.figures(first, last))
    assert figures == {"CPU": 0.5, "CPU of their process of Postgres": 2.0, "wall": 500_000.0}


def test_gateway_costs_are_those_of_an_answered_request() -> None:
    """A core's requests follow from what one costs."""
    busy, calm = gateway.Loaded(10_000, 2.0, 0.5, 3.0, 9.0), gateway.Loaded(2_000, 1.0, 0.2, 4.0, 8.0)
    figures = by_name(gateway.figures(busy, calm))
    assert figures["CPU"] == pytest.approx(50.0)
    assert figures["requests a core"] == pytest.approx(20_000.0)
    assert figures["closed loop, wall"] == 5_000.0
    assert figures["at 2,000/s, p99"] == 8.0
    assert figures["at 2,000/s, CPU"] == pytest.approx(100.0)


KINDS = ("tags", "profiles", "aggregates", "aggregates of 10 full minutes")


def test_every_kind_of_request_has_its_percentiles() -> None:
    """Goals are those of the queries' p99."""
    said = {kind: {"p50_ms": 1.0, "p99_ms": 2.0, "max_ms": 3.0} for kind in KINDS}
    goals = {figure.name: figure.goal for figure in queries.figures(said) if figure.goal is not None}
    assert goals == {"profiles, p99": 20.0, "aggregates of 10 full minutes, p99": 50.0}


def test_prepared_requests_are_whole_and_differ() -> None:
    """One event sent again and again would go to one partition."""
    requests = list(islice(prepared(Plan(port=1, connections=1, seconds=1, rate=None, seed=1)), 50))
    heads, bodies = zip(*(request.split(b"\r\n\r\n") for request in requests), strict=True)
    assert all(b"Content-Length: %d" % len(body) in head for head, body in zip(heads, bodies, strict=True))
    assert len({json.loads(body)["cookie"] for body in bodies}) > 40


def by_name(figures: Iterable[Figure]) -> dict[str, float]:
    return {figure.name: figure.value for figure in figures}
