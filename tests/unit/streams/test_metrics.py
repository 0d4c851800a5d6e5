"""Each process has its own metrics, named alike and explained."""

from __future__ import annotations

import re

import pytest

from streams.metrics import GatewayMetrics, ProcessMetrics, SinkMetrics, WorkerMetrics

each_process = pytest.mark.parametrize("process", [WorkerMetrics, GatewayMetrics, SinkMetrics])


@each_process
def test_names_are_of_one_form_and_meanings_are_given(process: type[ProcessMetrics]) -> None:
    """Base units, `_total` for counters only: Prometheus' rules are an operator's eyes."""
    for metric in process().registry.collect():
        assert re.fullmatch(r"tally(_[a-z]+)+", metric.name)
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
