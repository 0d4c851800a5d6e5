"""The folder of a job: one job at a time, addresses for its owner alone, a socket path that fits."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stack.errors import StackError
from stack.home import SOCKET_PATH_BYTES_MAX, StackHome


def test_second_job_in_one_folder_is_told_who_runs(tmp_path: Path) -> None:
    """Two Kafkas on one log would destroy it."""
    home = StackHome(tmp_path)
    second = StackHome(tmp_path).locked("http://127.0.0.1:9000")
    refused = pytest.raises(StackError, match=rf"already runs in .*pid {os.getpid()}, http://127\.0\.0\.1:8080")
    with home.locked("http://127.0.0.1:8080"), refused, second:
        pass


def test_folder_is_free_again_after_a_job(tmp_path: Path) -> None:
    """The lock is the kernel's: however a job ends, it is gone, though the file stays."""
    home = StackHome(tmp_path)
    with home.locked("first"):
        pass
    with home.locked("second"):
        assert "second" in (tmp_path / "run.lock").read_text()


def test_addresses_are_for_their_owner_alone(tmp_path: Path) -> None:
    """The file holds a password."""
    home = StackHome(tmp_path)
    home.environment_file.write_text("old, open to all")
    home.write_environment({"TALLY_POSTGRES_DSN": "postgresql://tally:a'b c@127.0.0.1/tally", "TALLY_KAFKA_SERVERS": "x:1"})
    assert home.environment_file.stat().st_mode & 0o777 == 0o600
    assert home.read_environment() == {
        "TALLY_POSTGRES_DSN": "postgresql://tally:a'b c@127.0.0.1/tally",
        "TALLY_KAFKA_SERVERS": "x:1",
    }


def test_no_running_stack_means_no_addresses(tmp_path: Path) -> None:
    """`make psql` asks this."""
    assert StackHome(tmp_path).read_environment() == {}


def test_socket_of_a_deep_folder_still_fits() -> None:
    """AF_UNIX takes 107 bytes; checkouts in CI are deeper."""
    shallow, deep = StackHome(Path("/srv/tally")), StackHome(Path("/srv") / ("x" * 50) / ("y" * 50))
    assert shallow.manager_socket.parent == shallow.path
    assert deep.manager_socket.parent != deep.path
    assert len(os.fsencode(deep.manager_socket)) <= SOCKET_PATH_BYTES_MAX


@pytest.mark.parametrize("name", ["a ;b", "a #b", "a\nb"])
def test_folder_that_supervisor_would_misread_is_refused(tmp_path: Path, name: str) -> None:
    """Behind these marks its configuration has a comment."""
    with pytest.raises(StackError, match=r"stack\.home"):
        StackHome(tmp_path / name).make()
