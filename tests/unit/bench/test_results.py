"""Runs become one line a figure; what is judged, merged and compared."""

from __future__ import annotations

import json
from pathlib import Path

from bench.__main__ import write
from bench.case import Case, Figure
from bench.progress import CPU_UNIT
from bench.results import CaseResult, Summary, as_json, cost_of, from_json, ratios, summarize, table


def a_case(name: str = "aggregates", *, is_peer: bool = False) -> Case:
    return Case(name, f"title of {name}", list, is_peer=is_peer)


def a_result(name: str, cost_us: float, *, is_peer: bool = False) -> CaseResult:
    return summarize(a_case(name, is_peer=is_peer), [[Figure("CPU", cost_us, CPU_UNIT)]])


def test_median_of_all_runs_is_judged() -> None:
    """One lucky run reaches no goal."""
    runs = [[Figure("CPU", value, "µs", goal=2.0)] for value in (1.0, 2.5, 3.0)]
    (summary,) = summarize(a_case(), runs).summaries
    assert summary.values == (1.0, 2.5, 3.0)
    assert summary.median == 2.5
    assert summary.is_reached is False


def test_rate_has_a_least_and_a_cost_has_a_most() -> None:
    """The same value on the same side of a goal means opposite things."""
    assert Summary("rate", "events/s", (3.0,), goal=2.0, more_is_better=True).is_reached is True
    assert Summary("cost", "µs", (3.0,), goal=2.0).is_reached is False
    assert Summary("cost", "µs", (3.0,)).is_reached is None


def test_figures_keep_the_order_of_the_case() -> None:
    """A breakdown by stage reads from fetch to commit, and a run that lacks a figure does not lose the others."""
    runs = [[Figure("fetch", 1.0, "µs")], [Figure("fetch", 2.0, "µs"), Figure("commit", 3.0, "µs")]]
    summaries = summarize(a_case(), runs).summaries
    assert [(summary.name, summary.values) for summary in summaries] == [("fetch", (1.0, 2.0)), ("commit", (3.0,))]


def test_table_shows_least_median_greatest_and_the_verdict() -> None:
    """What somebody reads after half an hour of waiting."""
    runs = [[Figure("CPU", value, "µs", goal=2.0)] for value in (1.0, 1.5, 3.0)]
    last = table([summarize(a_case(), runs)]).splitlines()[-1]
    assert [cell.strip() for cell in last.strip("|").split("|")] == [
        "aggregates", "CPU", "1.00", "1.50", "3.00", "µs", "≤ 2.00: yes", "3",
    ]  # fmt: skip


def test_failed_runs_are_told() -> None:
    """Three good runs of five are not five."""
    some = summarize(a_case("some"), [[Figure("CPU", 1.0, "µs")]], failed=1, loads=(0.1, 0.2))
    none = summarize(a_case("none"), [], failed=2, loads=(0.1, 0.2))
    left_out = summarize(a_case("left_out"), [[]], loads=(0.1,))
    _, _, *lines = table([some, none, left_out]).splitlines()
    assert lines[0].rstrip(" |").endswith("1 of 2")
    assert "no run showed anything" in lines[1] and lines[1].rstrip(" |").endswith("0 of 2")
    assert "left out" in lines[2]


def test_every_line_of_the_table_is_as_wide() -> None:
    """It is shown in a terminal too."""
    lines = table([a_result("aggregates", 123456.0), a_result("x", 0.001)]).splitlines()
    assert len({len(line) for line in lines}) == 1


def test_results_read_back_from_json_are_the_same() -> None:
    """Cases that were measured yesterday stay in the file, and in the picture."""
    runs = [
        [Figure("CPU", value, "µs", goal=2.0), Figure("rate", 5.0, "events/s", more_is_better=True)] for value in (1.0, 2.0)
    ]
    result = summarize(a_case(is_peer=True), runs, failed=1, loads=(0.25, 0.5, 1.0))
    entries = json.loads(json.dumps(as_json([result], {"cores": 2})))
    assert from_json("aggregates", entries["aggregates"]) == result
    assert entries["aggregates"]["facts"] == {"cores": 2}


def test_others_are_compared_with_our_case_of_the_same_work() -> None:
    """Few cells are cheaper for everybody, and profiles cost everybody: a ratio across jobs would flatter one side."""
    ours = [a_result("aggregates", 2.0), a_result("aggregates_few", 1.0), a_result("both", 5.0)]
    peers = [a_result(name, cost, is_peer=True) for name, cost in (("flink", 24.0), ("flink_few", 6.0), ("flink_both", 60.0))]
    assert ratios([*ours, a_result("idiomatic", 300.0), *peers]) == [
        "title of idiomatic: 150 times the CPU of aggregates",
        "title of flink: 12.0 times the CPU of aggregates",
        "title of flink_few: 6.00 times the CPU of aggregates_few",
        "title of flink_both: 12.0 times the CPU of both",
    ]


def test_second_run_of_a_day_keeps_the_cases_of_the_first(tmp_path: Path) -> None:
    """A case measured anew replaces its own figures and nobody else's, in the files and in the picture."""
    picture = tmp_path / "images" / "bench.svg"
    write([a_result("aggregates", 2.0), a_result("idiomatic", 300.0)], folder=tmp_path, picture=picture)
    write([a_result("aggregates", 1.5)], folder=tmp_path, picture=picture)
    told = json.loads((tmp_path / "latest.json").read_text(encoding="utf-8"))
    assert {name: entry["figures"][0]["median"] for name, entry in told.items()} == {"aggregates": 1.5, "idiomatic": 300.0}
    assert told["aggregates"]["facts"]["kafka"] and told["aggregates"]["facts"]["python"]
    (page,) = tmp_path.glob("*.md")
    assert "200 times the CPU of aggregates" in page.read_text(encoding="utf-8")
    assert ">300<" in picture.read_text(encoding="utf-8")


def test_figures_are_told_with_the_commit_they_were_measured_at(tmp_path: Path) -> None:
    """A case that was not run again is of an older one, on the page and in the picture."""
    picture = tmp_path / "bench.svg"
    write([a_result("aggregates", 2.0)], folder=tmp_path, picture=picture)
    for path in tmp_path.glob("*.json"):
        found = json.loads(path.read_text(encoding="utf-8"))
        found["aggregates"]["facts"]["commit"] = "the-older"
        path.write_text(json.dumps(found), encoding="utf-8")
    write([a_result("recovery", 3.0)], folder=tmp_path, picture=picture)
    (page,) = tmp_path.glob("*.md")
    newer = told_facts(tmp_path)["recovery"]["commit"]
    assert f"commit the-older, {newer};" in page.read_text(encoding="utf-8")
    assert "commit the-older;" in picture.read_text(encoding="utf-8"), "it shows nothing of the newer one"


def told_facts(folder: Path) -> dict[str, dict[str, str]]:
    entries = json.loads((folder / "latest.json").read_text(encoding="utf-8"))
    return {name: entry["facts"] for name, entry in entries.items()}


def test_no_ratio_is_told_across_runs() -> None:
    """Ours was not measured in this run, so there is nothing to compare with."""
    assert ratios([a_result("idiomatic", 300.0), a_result("aggregates_few", 1.0)]) == []


def test_case_of_several_costs_has_no_cost() -> None:
    """Which of the stages would it be?"""
    runs = [[Figure("fetch", 1.0, CPU_UNIT), Figure("fold", 2.0, CPU_UNIT)]]
    assert cost_of(summarize(a_case("stages"), runs)) is None
