"""Fixtures come as plug-ins, one file a concern, from tests/support."""

from __future__ import annotations

pytest_plugins = ["tests.support.stack_fixtures", "tests.support.gateway_process", "tests.support.sinks_fixtures"]

collect_ignore = ["support/faulty_pipeline.py", "support/strict_pipeline.py", "support/stuck_pipeline.py"]
"""Programs that a worker runs; imported for their doctests they would want a Kafka."""
