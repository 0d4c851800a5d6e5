"""A case that cannot run here is told, and fails the run only where somebody could have made it possible."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

from tests.fault import __main__ as matrix
from tests.fault import small_disk
from tests.fault.case import Case, all_cases, nothing
from tests.fault.runner import Result

CASES = {
    "C0": Case(id="C0", title="any", inject=nothing),
    "F18": Case(id="F18", title="a disk", inject=nothing, needs_root=True),
}


@pytest.fixture(autouse=True)
def _matrix_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrix, "all_cases", lambda: CASES)
    monkeypatch.setattr(matrix, "run_case", lambda case, **_: Result(case))
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setenv("REQUIRE_SERVICES", "1")
    monkeypatch.delenv("CASE", raising=False)


def run(monkeypatch: pytest.MonkeyPatch, *, user_id: int, may_mount: bool) -> tuple[int, list[str]]:
    """Return exit status and last lines of a run of that user."""
    lines: list[str] = []
    monkeypatch.setattr(matrix, "say", lines.append)
    monkeypatch.setattr(os, "geteuid", lambda: user_id)
    monkeypatch.setattr(matrix, "may_mount", lambda: may_mount)
    return matrix.main(["--seed", "1"]), lines[-2:]


def test_nothing_is_skipped_where_disks_may_be_mounted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The usual last line."""
    status, lines = run(monkeypatch, user_id=0, may_mount=True)
    assert (status, lines[-1]) == (0, "2 cases, 2 exact")


def test_without_root_a_skip_is_a_failure_where_services_are_required(monkeypatch: pytest.MonkeyPatch) -> None:
    """CI is root: when it is not, somebody has to mend it."""
    status, lines = run(monkeypatch, user_id=1000, may_mount=False)
    assert (status, lines) == (1, ["SKIPPED F18, a disk: NEEDS ROOT", "1 cases, 1 exact, 1 skipped"])
    monkeypatch.delenv("REQUIRE_SERVICES")
    assert run(monkeypatch, user_id=1000, may_mount=False)[0] == 0


def test_root_that_may_not_mount_skips_loudly_and_does_not_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """Containers withhold the right from root, too, and nobody inside can give it."""
    status, lines = run(monkeypatch, user_id=0, may_mount=False)
    assert (status, lines) == (
        0,
        ["SKIPPED F18, a disk: NEEDS ROOT AND THE RIGHT TO MOUNT", "1 cases, 1 exact, 1 skipped"],
    )


def test_a_mount_that_is_refused_is_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe asks the machine itself, once."""

    def refuse(*command: str) -> None:
        raise subprocess.CalledProcessError(32, command)

    monkeypatch.setattr(small_disk, "_run", refuse)
    small_disk.may_mount.cache_clear()
    try:
        assert not small_disk.may_mount()
    finally:
        small_disk.may_mount.cache_clear()


def test_every_case_that_mounts_says_so() -> None:
    """Or it crashes instead of being skipped."""
    assert {case.id for case in all_cases().values() if case.needs_root} == {"F18", "F19", "F20"}


def test_case_that_ended_early_is_run_again_once_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says nothing of the counts; one that has found something is never given a second chance."""
    found = [{"crashed": ["no port"]}, {}, {"crashed": ["no port"]}, {"crashed": ["no port"]}]
    monkeypatch.setattr(matrix, "run_case", lambda case, **_: Result(case, problems=found.pop(0)))
    status, lines = run(monkeypatch, user_id=0, may_mount=True)
    assert (status, lines[-1]) == (1, "2 cases, 1 exact, 2 run twice")
    found[:] = [{"failed": ["it took too long to stop"]}, {"crashed": ["no port"], "lost": ["one"]}]
    assert run(monkeypatch, user_id=0, may_mount=True)[1][-1] == "2 cases, 0 exact"


def test_what_was_found_is_said_again_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a long log the end is read, and it must tell how to go on."""
    found: list[dict[str, list[str]]] = [{}, {"lost": [f"event {number}" for number in range(7)]}]
    monkeypatch.setattr(matrix, "run_case", lambda case, **_: Result(case, problems=found.pop(0)))
    lines: list[str] = []
    monkeypatch.setattr(matrix, "say", lines.append)
    monkeypatch.setattr(matrix, "may_mount", lambda: True)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert matrix.main(["--seed", "7"]) == 1
    problems = [f" F18 lost: event {number}" for number in range(5)]
    assert lines[-8:] == [*problems, " F18 lost: and 2 more", " F18 is replayed by CASE=F18 SEED=7", "2 cases, 1 exact"]
