"""What happened before 1970 has no event time, and its row in Postgres the true one."""

from __future__ import annotations

from datetime import date

import pytest

from sinks.events import render_submission
from sinks.profiles import Span
from streams.early_time import EARLIEST, kept_time, true_time
from tables.profiles import Row, SpanKey


@pytest.mark.parametrize(
    ("at_us", "shown"),
    [
        (-5_000_000, "1969-12-31T23:59:55.000Z"),
        (-1, "1969-12-31T23:59:59.999999Z"),
        (-62_135_596_800_000_000, "0001-01-01T00:00:00.000Z"),
        (0, "1970-01-01T00:00:00.000Z"),
        (1_704_067_200_123_456, "2024-01-01T00:00:00.123456Z"),
    ],
)
def test_row_of_a_transaction_shows_when_it_happened(at_us: int, shown: str) -> None:
    """P3: the specification accepts timestamp -5; clamped to 1970 without a trace it would be a wrong row."""
    time, properties = kept_time(at_us)
    row = Row("judtin", "TRANSACTION", 0, 7, time, ("id", "PCR", "", properties, [{"key": "a", "value": "1"}]))
    assert shown in render_submission(Span(0, SpanKey(7, 7), date(2026, 1, 1), [row]), row).split("\t")


@pytest.mark.parametrize(
    "properties",
    [
        "{}",
        '{"a":1}',
        '{"occurred_at":5}',
        '{"occurred_at":"x"}',
        "[",
        '{"occurred_at":"2024-01-01T00:00:00Z"}',
        '{"occurred_at":"0001-01-01T00:00:00+00:01"}',
    ],
)
def test_properties_of_somebody_else_change_no_time(properties: str) -> None:
    """At the first moment there is any record may stand, with any properties: one that raised would stop the sinks for good."""
    assert true_time(EARLIEST, 0, properties) == (EARLIEST, 0)
    assert true_time("2024-01-01T00:00:00.000Z", 5, '{"occurred_at":"1969-12-31T23:59:55.000Z"}')[1] == 5
