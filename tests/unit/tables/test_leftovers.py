"""Files that a crash in the middle of opening a database leaves: gone with the next start, and nobody else's are touched."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tables.leftovers import remove_leftovers
from tables.store import PartitionDatabases, reraise

OPENER = """
import sys
from pathlib import Path
from tables.store import PartitionDatabases, reraise
database = PartitionDatabases(cache_bytes=1 << 20, ttl_s=0, fail=reraise).open(Path(sys.argv[1]))
print("open", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "user-profiles-3.db"
    databases().open(path).close()
    return path


def databases() -> PartitionDatabases:
    return PartitionDatabases(cache_bytes=1 << 20, ttl_s=0, fail=reraise)


@contextmanager
def open_elsewhere(path: Path) -> Iterator[None]:
    with subprocess.Popen([sys.executable, "-c", OPENER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        try:
            yield
        finally:
            process.stdin.close()


def test_rocksdb_keeps_what_a_crash_left_and_the_next_start_removes_it(database: Path) -> None:
    """F9: should RocksDB do it one day, this module is to go."""
    left = database / "OPTIONS-000003.dbtmp"
    left.write_text("half")
    kept = sorted(database.glob("OPTIONS-??????"))
    databases().open(database).close()
    assert left.exists()
    remove_leftovers(database.parent)
    assert not left.exists() and set(kept) <= set(database.iterdir())
    databases().open(database).close()


def test_files_of_a_database_that_somebody_has_open_stay(database: Path) -> None:
    """It may be about to rename one. The other may never be opened here again, so what RocksDB would remove then goes too."""
    other = database.parent / "minute-blocks-0.db"
    databases().open(other).close()
    names = [database / "OPTIONS-000099.dbtmp", other / "000098.dbtmp"]
    with open_elsewhere(database):
        for name in names:
            name.write_text("half")
        remove_leftovers(database.parent)
        assert [name.exists() for name in names] == [True, False]
    remove_leftovers(database.parent)
    assert not names[0].exists()


def test_folder_that_is_not_there_yet_has_none(tmp_path: Path) -> None:
    """A worker's first start."""
    remove_leftovers(tmp_path / "v1" / "tables")


def test_what_cannot_be_removed_stops_no_start(tmp_path: Path) -> None:
    """Not even a database of which nothing but the leftover is there."""
    left = tmp_path / "user-profiles-0.db" / "OPTIONS-000003.dbtmp"
    left.parent.mkdir()
    left.write_text("half")
    remove_leftovers(tmp_path)
    assert left.exists()
