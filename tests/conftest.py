"""Fixtures come as plug-ins, one file a concern, from tests/support."""

from __future__ import annotations

pytest_plugins = ["tests.support.stack_fixtures", "tests.support.gateway_process"]
