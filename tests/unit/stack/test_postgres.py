"""What the local Postgres says where it cannot begin."""

from __future__ import annotations

from pathlib import Path

import pytest

from stack.errors import StackError
from stack.postgres import LocalPostgres


def test_data_whose_password_is_gone_are_named_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For root the data lie outside the stack's folder: who removes that by hand must learn where the rest is."""
    monkeypatch.setattr(LocalPostgres, "user", None)
    postgres = LocalPostgres(tmp_path / "postgres")
    version = postgres.data / "PG_VERSION"
    version.parent.mkdir(parents=True)
    version.write_text("16\n", encoding="ascii")
    with pytest.raises(StackError, match=f"rm -r {postgres.place}"):
        postgres.prepare()
    assert version.exists()
