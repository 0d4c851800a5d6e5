"""The picture of the README: what is in it, and that it is one."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from bench.case import Case, Figure
from bench.plot import Bar, bars_of, svg
from bench.progress import CPU_UNIT
from bench.results import CaseResult, summarize

SVG = "{http://www.w3.org/2000/svg}"


def a_result(name: str, *costs_us: float, is_peer: bool = False) -> CaseResult:
    return summarize(
        Case(name, f"{name} & co: many cells", list, is_peer=is_peer), [[Figure("CPU", cost, CPU_UNIT)] for cost in costs_us]
    )


def test_bars_are_of_one_backlog_and_the_cheapest_comes_first() -> None:
    """Only what counted the same events may stand side by side."""
    results = [
        a_result("idiomatic", 380.0),
        a_result("flink", 24.0, 25.0, 99.0, is_peer=True),
        a_result("flink_few", 6.0, is_peer=True),
        a_result("aggregates", 2.0),
        a_result("aggregates_few", 1.0),
        a_result("hot_keys", 5.0),
    ]
    assert bars_of(results) == [
        Bar("Tally, aggregates & co", 2.0, True),
        Bar("flink & co", 25.0),
        Bar("idiomatic & co", 380.0),
    ]


def test_peer_that_keeps_profiles_says_so() -> None:
    """It has the same name as the one that does not, and does more."""
    assert [bar.label for bar in bars_of([a_result("flink_both", 60.0, is_peer=True)])] == ["flink_both & co, with profiles"]


def test_left_out_peer_has_no_bar() -> None:
    """A machine without a JDK draws the others."""
    assert bars_of([summarize(Case("flink", "Flink", list, is_peer=True), [[]])]) == []


def test_picture_is_xml_with_a_bar_and_its_value_for_each() -> None:
    """A label with an ampersand would break a picture that is put together by hand."""
    tree = ElementTree.fromstring(svg([Bar("a & b", 2.0, True), Bar("c < d", 380.0)], note="x & y"))
    texts = [text.text for text in tree.iter(f"{SVG}text")]
    assert {"a & b", "c < d", "2.00", "380", "x & y"} <= set(texts)
    assert [bar.get("class") for bar in tree.iter(f"{SVG}rect")] == ["ours", "other"]


def test_greater_cost_has_the_longer_bar_and_all_fit() -> None:
    """The axis goes to the next power of ten, whatever the greatest is."""
    tree = ElementTree.fromstring(svg([Bar("a", 0.5), Bar("b", 2.0), Bar("c", 999.0), Bar("d", 1001.0)], note=""))
    width = float(tree.get("viewBox", "").split()[2])
    ends = [(float(bar.get("x", 0)), float(bar.get("width", 0))) for bar in tree.iter(f"{SVG}rect")]
    lengths = [length for _, length in ends]
    assert lengths == sorted(lengths)
    assert lengths[0] > 0
    assert all(x + length < width for x, length in ends)


@pytest.mark.parametrize("scheme", ["prefers-color-scheme: dark", "text {"])
def test_picture_has_colours_for_light_and_dark(scheme: str) -> None:
    """Black text on a dark page is no text."""
    assert scheme in svg([Bar("a", 1.0)], note="")
