"""What a user can meet by name is in docs/: settings, metrics, topics, reason codes, ERROR lines; the spec's rows in tests."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache

import pytest

from streams.errors import Reason
from streams.metrics import GatewayMetrics, ProcessMetrics, SinkMetrics, WorkerMetrics
from streams.settings import Section, Settings
from streams.topics import DEAD_LETTERS, REPLAYS, SESSIONS, STREAMS, changelog_of
from tests.tidy.tree import ROOT, docs_text, functions_of, python_files, source_files, tree_of

SPEC_ROWS = [f"A{number}" for number in (*range(1, 8), 10, *range(12, 18), 19, 20)]
POINTS_OF_A7 = 26
MENTION_ENDS = r"(?![\w-])"


def metric_names() -> Iterator[str]:
    processes: tuple[ProcessMetrics, ...] = (WorkerMetrics(), GatewayMetrics(), SinkMetrics())
    for process in processes:
        for metric in process.registry.collect():
            yield f"{metric.name}_total" if metric.type == "counter" else metric.name


def setting_names() -> Iterator[str]:
    for section, field in Settings.model_fields.items():
        assert isinstance(field.default, Section)
        yield from (f"{section}.{key}" for key in type(field.default).model_fields)


OF_STREAMS = (name for stream in STREAMS for name in (stream.topic, *map(changelog_of, stream.tables)))
TOPICS = [DEAD_LETTERS, REPLAYS, SESSIONS, *OF_STREAMS]


def is_in_docs(name: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(name)}{MENTION_ENDS}", docs_text()) is not None


@pytest.mark.parametrize("name", sorted(set(metric_names())))
def test_metric_is_in_docs(name: str) -> None:
    """An operator who meets it on a graph looks it up by name."""
    assert is_in_docs(name)


@pytest.mark.parametrize("name", list(setting_names()))
def test_setting_is_in_docs(name: str) -> None:
    """A14: as `section.key` or as its variable."""
    variable = "TALLY_" + name.replace(".", "_").upper()
    assert is_in_docs(name) or is_in_docs(variable)


@pytest.mark.parametrize("topic", TOPICS)
def test_topic_is_in_docs(topic: str) -> None:
    """Somebody will ask whether it may be deleted."""
    assert is_in_docs(topic)


@pytest.mark.parametrize("reason", list(Reason))
def test_reason_code_is_in_docs(reason: Reason) -> None:
    """It is what a producer gets told."""
    assert f"`{reason}`" in docs_text()


@pytest.mark.parametrize("reason", list(Reason))
def test_reason_code_is_produced(reason: Reason) -> None:
    """A code that nothing produces is a promise that nobody keeps."""
    produced = re.compile(rf"\bReason\.{reason.name}\b")
    others = [path for path in source_files() if path != ROOT / "streams" / "errors.py"]
    assert any(produced.search(path.read_text(encoding="utf-8")) for path in others)


def error_lines() -> Iterator[str]:
    """Yield the longest fixed part of every message that is logged at ERROR or above."""
    for path in source_files():
        for node in ast.walk(tree_of(path)):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
                continue
            on_log = isinstance(node.func.value, ast.Name) and node.func.value.id in ("log", "logger")
            message = node.args[0]
            if on_log and node.func.attr in ("error", "critical", "exception") and isinstance(message, ast.Constant):
                yield max(re.split(r"%[-\d.]*[a-z]", str(message.value)), key=len).strip(" :;,")


@pytest.mark.parametrize("message", sorted(set(error_lines())))
def test_error_line_is_in_docs(message: str) -> None:
    """ERROR wakes someone, who then needs to know what to do."""
    assert message in docs_text()


@cache
def said_by_tests() -> str:
    """Return what the docstrings of all tests say."""
    return "\n".join(
        ast.get_docstring(function) or ""
        for path in python_files()
        if path.is_relative_to(ROOT / "tests") and path.name.startswith("test_")
        for function in functions_of(path)
        if function.name.startswith("test_")
    )


@pytest.mark.parametrize("row", SPEC_ROWS)
def test_row_of_the_spec_is_named_by_a_test(row: str) -> None:
    """Row ids are test ids: a row without one is a promise without a check."""
    assert re.search(rf"\b{row}\b", said_by_tests())


def test_tests_that_security_names_exist() -> None:
    """A rule whose test was renamed has none, as far as a reader can tell."""
    files = [path for path in python_files() if path.is_relative_to(ROOT / "tests")]
    functions = {function.name for path in files for function in functions_of(path)}
    named = re.findall(r"`(test_\w+(?:\.py)?)`", (ROOT / "docs" / "security.md").read_text(encoding="utf-8"))
    assert len(named) > 30
    assert set(named) - functions - {path.name for path in files} == set()


def test_every_point_of_difference_is_named_by_a_test() -> None:
    """The row that holds the 26 points asks for one test each."""
    named: set[int] = set()
    for numbers in re.findall(r"\bA7 points? ([\d, \-–and]*\d)", said_by_tests()):
        for first, last in re.findall(r"(\d+)(?:\s*[-–]\s*(\d+))?", numbers):
            named.update(range(int(first), int(last or first) + 1))
    assert set(range(1, POINTS_OF_A7 + 1)) <= named, sorted(set(range(1, POINTS_OF_A7 + 1)) - named)
