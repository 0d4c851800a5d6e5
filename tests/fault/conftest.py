"""Leave out of the collection what are programs of their own."""

from __future__ import annotations

from pathlib import Path

MARK = '__all__ = ["app"]'

collect_ignore = [path.name for path in Path(__file__).parent.glob("*.py") if f"\n{MARK}" in path.read_text("utf-8")]
"""Programs that a worker runs; imported for their doctests they would want a Kafka."""
