"""Peers: what they are told and tell, and what they are built from. Their work itself is measured, not tested, here."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.backlogs import Backlog, Totals
from bench.cases import peers
from bench.peers.build import JAVA_SOURCES, SOURCES, digest_of, missing_java_tools
from bench.peers.program import Program, check, cookies_checked, count_backlog, expected_of, read_totals, running
from bench.peers.report import Report
from bench.progress import BenchError
from bench.workloads import MANY

MINUTE = 27_434_880
"""2022-03-01T00:00 since 1970."""
RIGHT = {"2022-03-01T00:00|BUY": Totals(2, 30), "2022-03-01T00:00|VIEW": Totals(1, 5)}
A_PEER = """
import os, pathlib, sys
home = pathlib.Path(os.environ["PEER_HOME"])
(home / "counted").write_text("3")
sys.stdin.read()
(home / "totals").write_text("2022-03-01T00:00|BUY\\t2\\t30\\n")
"""


@contextmanager
def a_running_peer(home: Path, program: str) -> Iterator[Program]:
    with running(a_backlog(home), [sys.executable, "-c", program]) as peer:
        yield peer


def a_backlog(home: Path) -> Backlog:
    totals = {(MINUTE, "BUY"): Totals(2, 30), (MINUTE, "VIEW"): Totals(1, 5)}
    return Backlog(MANY, "127.0.0.1:1", home, totals, "user", {})


def test_peer_tells_the_totals_of_its_state_when_its_input_ends(tmp_path: Path) -> None:
    """Nothing else tells it to end, so that it also ends when the benchmark dies."""
    with a_running_peer(tmp_path, A_PEER) as peer:
        assert peer.end() == {"2022-03-01T00:00|BUY": Totals(2, 30)}
        assert peer.counted() == 3


def test_peer_is_told_whose_profiles_are_compared(tmp_path: Path) -> None:
    """A full one and an ordinary one: all million would take longer to read than to make."""
    backlog = a_backlog(tmp_path)
    cookies = cookies_checked(backlog)
    echo = """import os, pathlib; (pathlib.Path(os.environ["PEER_HOME"]) / "cookies").write_text(os.environ["PEER_COOKIES"])"""
    with running(backlog, [sys.executable, "-c", echo], cookies=cookies) as peer:
        peer.process.wait()
        assert (peer.home / "cookies").read_text(encoding="utf-8").split(",") == [backlog.user, "0" * 20]


def test_peer_that_fails_is_no_result(tmp_path: Path) -> None:
    """What it wrote before may look like one."""
    with a_running_peer(tmp_path, A_PEER + "sys.exit(3)") as peer, pytest.raises(BenchError, match="ended with 3"):
        peer.end()


def test_peer_that_ends_early_shows_its_log(tmp_path: Path) -> None:
    """The folder with the log is gone when somebody wants to look."""
    with pytest.raises(BenchError, match="no such topic"):
        count_backlog(a_backlog(tmp_path), [sys.executable, "-c", "raise SystemExit('no such topic')"])


def test_peer_is_gone_when_a_run_is_given_up(tmp_path: Path) -> None:
    """The next run must not share the machine with it."""
    with pytest.raises(BenchError), a_running_peer(tmp_path, A_PEER) as peer:
        raise BenchError("given up")
    assert peer.process.returncode is not None


def test_right_answers_have_the_keys_that_peers_use(tmp_path: Path) -> None:
    """Peers cut the minute off the event's own text."""
    assert expected_of(a_backlog(tmp_path).totals) == RIGHT
    check(RIGHT, RIGHT)


@pytest.mark.parametrize(
    "told",
    [
        {**RIGHT, "2022-03-01T00:00|BUY": Totals(2, 31)},
        {**RIGHT, "2022-03-01T00:00|BUY": Totals(3, 30)},
        {**RIGHT, "2022-03-01T00:01|BUY": Totals(1, 1)},
        {"2022-03-01T00:00|BUY": Totals(2, 30)},
        {},
    ],
)
def test_wrong_totals_are_refused(told: dict[str, Totals]) -> None:
    """A peer that is fast because it loses events is no measure."""
    with pytest.raises(BenchError, match="wrong totals"):
        check(told, RIGHT)


def test_reported_cells_add_up_by_minute_and_action(tmp_path: Path) -> None:
    """Cells of several partitions, or batches, may be the same."""
    report = Report(tmp_path)
    for cell, count, total in (("BUY|a|b|c", 1, 10), ("BUY|a|b|c", 1, 20), ("VIEW|a|b|d", 1, 5)):
        report.add(f"2022-03-01T00:00|{cell}", count, total)
    report.write_totals()
    assert read_totals((tmp_path / "totals").read_text(encoding="utf-8")) == RIGHT


def test_another_source_or_python_is_built_anew(tmp_path: Path) -> None:
    """A figure must belong to the program that the repository shows."""
    source = tmp_path / "source"
    digests = set()
    for text, salt in (("a", ""), ("b", ""), ("b", "3.12")):
        source.write_text(text, encoding="utf-8")
        digests.add(digest_of([source], salt=salt))
    assert len(digests) == 3


def test_peer_on_the_jvm_is_left_out_loudly_without_a_jdk(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The other peers are worth running without it; nobody should think it was run."""
    monkeypatch.setattr(peers, "missing_java_tools", lambda: ["javac", "mvn"])
    case = {case.name: case for case in peers.CASES}["flink"]
    assert list(case.measure()) == []
    assert "LEFT OUT: flink needs javac, mvn" in capsys.readouterr().err


def test_missing_tools_are_named() -> None:
    """A Java alone runs Kafka, and builds nothing."""
    assert missing_java_tools(lambda tool: tool if tool == "java" else None) == ["javac", "mvn"]


def test_peers_are_measured_only_when_asked_for() -> None:
    """They download a hundred packages."""
    names = {case.name for case in peers.CASES}
    assert {"kafka_streams", "flink_few", "flink_sql_few", "kafka_streams_both", "flink_both", "flink_heap_both"} <= names
    assert all(case.is_peer for case in peers.CASES)


@pytest.mark.parametrize("lock", sorted(SOURCES.glob("*.lock")), ids=lambda lock: lock.name)
def test_every_package_of_a_peer_has_a_hash_and_no_host(lock: Path) -> None:
    """As requirements.lock: the same program on every machine, from whatever registry that machine uses."""
    lines = lock.read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    assert all("==" in line and "--hash=sha256:" in line for line in lines)
    assert not [line for line in lines if "://" in line]


@pytest.mark.parametrize("pom", sorted(JAVA_SOURCES.rglob("pom.xml")), ids=lambda pom: pom.parent.name)
def test_pom_names_no_host_and_pins_every_version(pom: Path) -> None:
    """Where artifacts come from is the business of who builds."""
    text = pom.read_text(encoding="utf-8")
    assert "://" not in text
    assert not re.findall(r"<version>(?:\[|\(|LATEST|RELEASE|.*SNAPSHOT)", text)
    assert all("<version>" in block for block in re.findall(r"<dependency>(.*?)</dependency>", text, re.DOTALL))
