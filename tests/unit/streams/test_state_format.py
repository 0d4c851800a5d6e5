"""State of a later version is refused in one line, whoever meets it; that of the last version is read."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import pytest

from streams.errors import NewerStateError, SettingsError
from streams.state_format import MARK, STATE_FORMAT, mark_folder, refuse_newer
from streams.topics import USER_TAGS
from tables.blocks import BlockKey, decode_block, newest, pack
from tables.profiles import RowCodec, SpanKey, decode_span, newest_rows
from tests.support.stores import BLOCKS, ROWS, opened, recover, recovered, some_tables

GOLDEN = Path(__file__).parents[2] / "golden"


@pytest.mark.parametrize("read", [decode_block, decode_span])
def test_bytes_of_a_later_format_are_refused(read: Any) -> None:
    """Not as damaged: the sinks would put them aside as dead letters, and go on without them."""
    with pytest.raises(NewerStateError, match=r"has format 2, tally [\d.]+ reads up to \d: start the version that wrote it"):
        list(read(b"\x02whatever"))


@pytest.mark.parametrize("raw", [b"", b" ", b"garbage", b"\x90", b"\xdc\x00\x00", b"\x01"])
def test_no_damage_is_taken_for_a_later_format(raw: bytes) -> None:
    """A text, an array, nothing at all: whoever wrote that into a changelog was not Tally."""
    refuse_newer(raw, known=1, what="x")


@pytest.mark.parametrize("topic", [BLOCKS, ROWS])
def test_recovery_stops_at_a_later_format(topic: str, tmp_path: Path) -> None:
    """Applied blindly it would be found by the first query, on a worker that says it is ready."""
    tables = some_tables(tmp_path)
    store = tables.block_store if topic == BLOCKS else tables.row_store
    assert store is not None
    key = BlockKey(1, 0, 7).encode() if topic == BLOCKS else SpanKey(0, 1).encode()
    with pytest.raises(NewerStateError):
        recover(store, recovered(topic, 0, key, b"\x02whatever"))


def test_folder_of_a_later_version_is_refused(tmp_path: Path) -> None:
    """A rollback that keeps the disk; the line says where, and what to do."""
    folder = tmp_path / "worker-0"
    mark_folder(folder)
    mark_folder(folder)
    assert (folder / MARK).read_text() == f"{STATE_FORMAT}\n"
    (folder / MARK).write_text(f"{STATE_FORMAT + 1}\n")
    with pytest.raises(NewerStateError, match=f"the state in {folder} has format {STATE_FORMAT + 1}"):
        mark_folder(folder)
    assert (folder / MARK).read_text() == f"{STATE_FORMAT + 1}\n", "the later version finds its own"


def test_folder_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    """A14."""
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match=r"stack\.home: cannot use"):
        mark_folder(tmp_path / "file" / "worker-0")


def test_databases_of_version_1_are_read(tmp_path: Path) -> None:
    """The disk of a worker of the first version, kept as it was: blocks, rows, and how far the changelogs had been read."""
    with tarfile.open(GOLDEN / "state.v1.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    tables = some_tables(tmp_path)
    blocks = opened(tables.block_store)
    keys = newest(tables.block_store.keys_between(0, b"", b"\xff" * 64))
    cells = {BlockKey.decode(key)[:2]: decode_block(blocks.get(key)).cells() for key in keys.values() if blocks.get(key)}
    assert cells == {
        (27434880, 2): {("VIEW", "CAMPAIGN_321", "Ebros_Gift", "Trousers"): pack(3, 2 * 28969 - 2**31)},
        (27434881, 2): {("BUY", "", "Zażółć", "Trousers"): pack(1, 2**31 - 1)},
    }
    assert tables.row_store is not None
    opened(tables.row_store)
    codec = RowCodec(USER_TAGS)
    prefix = codec.prefix("9WkYGxkiXBfpMIjBGURC", "VIEW")
    rows = list(newest_rows(tables.row_store.scan(0, prefix, b"\xff" * 64), prefix))
    assert [codec.decode(*row).offset for row in rows] == [8193, 8192]
    for store in (tables.block_store, tables.row_store):
        assert store.persisted_offset(recovered(BLOCKS, 0, b"", None).message.tp) == 41
