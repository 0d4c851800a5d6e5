"""Each process has its own metrics, named alike and explained."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from streams.metrics import GatewayMetrics, ProcessMetrics, SinkMetrics, WorkerMetrics, settings_digest
from streams.settings import Settings, load_settings
from streams.version import VERSION

each_process = pytest.mark.parametrize("process", [WorkerMetrics, GatewayMetrics, SinkMetrics])


@each_process
def test_names_are_of_one_form_and_meanings_are_given(process: type[ProcessMetrics]) -> None:
    """Base units, `_total` for counters only: Prometheus' rules are an operator's eyes."""
    for metric in process().registry.collect():
        assert re.fullmatch(r"tally(_[a-z0-9]+)+", metric.name)
        assert metric.documentation
        assert not re.search(r"_(ms|kb|mib|minutes)$", metric.name)


@each_process
def test_labels_never_name_a_user(process: type[ProcessMetrics]) -> None:
    """A label a user would be a time series a user."""
    metrics = [value for value in vars(process()).values() if hasattr(value, "_labelnames")]
    assert metrics
    assert not {"user", "cookie", "key"} & {label for metric in metrics for label in metric._labelnames}


def test_text_shows_only_what_the_process_measures() -> None:
    """Two processes in one test, or in one interpreter, do not see each other's numbers."""
    sink, gateway = SinkMetrics(), GatewayMetrics()
    sink.rows.labels("minute_cells", "written").inc(3)
    assert b'tally_sink_rows_total{operation="written",table="minute_cells"} 3.0' in sink.text()
    assert b"tally_sink" not in gateway.text()


def test_version_is_that_of_the_project() -> None:
    """The project is run from its root, never installed, so no package knows its version."""
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == VERSION
    assert f'version="{VERSION}"'.encode() in GatewayMetrics().text()


def test_digest_is_equal_where_processes_agree() -> None:
    """Each has a port and an index of its own; whoever counts by other rules than the rest must be seen."""
    first = settings_digest(load_settings({"TALLY_WORKER_INDEX": "1", "TALLY_SINKS_PORT": "7000", "TALLY_WEB_PORT": "7001"}))
    assert first == settings_digest(Settings())
    assert first != settings_digest(load_settings({"TALLY_WORKER_HORIZON_S": "7200"}))


def test_settings_that_alerts_compare_with_are_shown() -> None:
    """A rule must not repeat a number that a setting may change."""
    metrics = WorkerMetrics()
    metrics.configured(load_settings({"TALLY_TOPICS_RETENTION_S": "3600"}))
    assert b'tally_setting{name="topics.retention_s"} 3600.0' in metrics.text()
