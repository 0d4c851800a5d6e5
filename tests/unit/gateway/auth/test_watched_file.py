"""Files that change while the gateway runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.auth.watched_file import BadDocumentError, WatchedFile
from streams.errors import SettingsError


def read(path: Path) -> str:
    """Return a file's text; one that is empty or not there is broken."""
    try:
        text = path.read_text()
    except OSError as error:
        raise BadDocumentError("cannot be read") from error
    if not text:
        raise BadDocumentError("it is empty")
    return text


async def test_a_changed_file_is_taken_and_a_broken_one_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What it held before stays in use, so that a slip of the editor locks nobody out."""
    path, taken = tmp_path / "file", list[str]()
    file = WatchedFile(path, setting="auth.keys_file", read=read, use=taken.append)
    file.load(may_miss=True)
    await file.look()
    path.write_text("one")
    for _ in range(3):
        await file.look()
    assert taken == ["one"]
    path.write_text("")
    for _ in range(3):
        await file.look()
    path.unlink()
    for _ in range(3):
        await file.look()
    assert taken == ["one"]
    assert [record.levelname for record in caplog.records if record.levelname == "ERROR"] == ["ERROR", "ERROR"]
    path.write_text("two")
    await file.look()
    assert taken == ["one", "two"]


def test_a_broken_file_stops_the_start(tmp_path: Path) -> None:
    """At the start there is nothing before that could stay in use."""
    path = tmp_path / "file"
    file = WatchedFile(path, setting="auth.keys_file", read=read, use=lambda _: None)
    with pytest.raises(SettingsError, match=r"auth\.keys_file"):
        file.load(may_miss=False)
    path.write_text("")
    with pytest.raises(SettingsError, match="it is empty"):
        file.load(may_miss=True)
