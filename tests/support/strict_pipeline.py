"""The product's topology as it was before a fix, refusing valid events: `faust -A tests.support.strict_pipeline worker`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline import app
from tables.fold import Fold, Refused

__all__ = ["app"]

REFUSED_MARK = b'"origin":"REFUSED'
"""Values that hold it are taken for something that breaks the schema."""
_fold = Fold.fold


def strict_fold(self: Any, values: Sequence[bytes | None], base: int, minutes: Any, rows: Any, **others: Any) -> list[Refused]:
    """Fold what is not refused; the dead letter has the record as it came."""
    seen = [b"[]" if value is not None and REFUSED_MARK in value else value for value in values]
    return _fold(self, seen, base, minutes, rows, **others)


Fold.fold = strict_fold  # type: ignore[method-assign]
