"""The product's topology with RocksDBs that write to their disk soon: `faust -A tests.fault.small_memtables worker`.

They have no log of their own, so the product's 16 MiB of memory before a file is written would hide a full disk for long.
"""

from __future__ import annotations

from tables import store

MEMTABLE_BYTES = 64 << 10
store.MEMTABLE_BYTES = MEMTABLE_BYTES

from pipeline import app  # noqa: E402 - the tables read the size when they are opened, after this

__all__ = ["app"]
