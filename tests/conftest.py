"""Fixtures come as plug-ins, one file a concern, from tests/support."""

from __future__ import annotations

pytest_plugins = ["tests.support.stack_fixtures", "tests.support.gateway_process", "tests.support.sinks_fixtures"]

collect_ignore = ["support/faulty_pipeline.py"]
"""A program that a worker runs; imported for its doctests it would want a Kafka."""
