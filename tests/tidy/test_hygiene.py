"""Nothing in the tree belongs to one machine, one registry or one moment."""

from __future__ import annotations

import re
import tomllib

import pytest

from tests.tidy.tree import ROOT, breaking, text_files, text_of

SCRIPT_BYTES_MAX = 120_000
HOME_OF_SOMEBODY = re.compile(r"(?<![\w.~}])/(?:home|root|Users|work|workspace)/[\w.]")


LOCKS = ["requirements.lock", "requirements-dev.lock"]


def pinned(lock: str) -> list[str]:
    """Return each pinned dependency of a lock file as one line, its hashes included."""
    text = (ROOT / lock).read_text(encoding="utf-8").replace("\\\n", " ")
    return [line for line in text.splitlines() if "==" in line and not line.lstrip().startswith("#")]


@pytest.mark.parametrize("name", [*LOCKS, "pyproject.toml"])
def test_dependencies_name_no_host(name: str) -> None:
    """Where packages come from is the business of who installs: a mirror, a cache, the registry itself."""
    text = (ROOT / name).read_text(encoding="utf-8")
    assert not re.findall(r"https?://\S+", text)
    assert not re.search(r"^\s*--?(?:index-url|extra-index-url|find-links|trusted-host|i)\b", text, re.MULTILINE)


@pytest.mark.parametrize("name", LOCKS)
def test_every_locked_dependency_has_a_hash(name: str) -> None:
    """A lock without hashes locks names only."""
    assert len(pinned(name)) > 20
    assert not [line.split()[0] for line in pinned(name) if "--hash=sha256:" not in line]


def test_what_is_tested_is_what_runs() -> None:
    """The tests' lock file holds the other, in the same versions; set-up relies on it and changes nothing for `make run`."""
    assert set(pinned(LOCKS[0])) < set(pinned(LOCKS[1]))


def test_faust_is_pinned_to_the_release_whose_private_methods_are_overridden() -> None:
    """Another release may have other private methods, and the transport would lose events without a word."""
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    assert "faust-streaming==0.15.3" in dependencies
    assert re.search(r"^faust-streaming==0\.15\.3\b", (ROOT / "requirements.lock").read_text(encoding="utf-8"), re.MULTILINE)


def test_file_names_no_path_of_a_machine() -> None:
    """A clone elsewhere must work, and nobody needs to know where ours stands; Git's own note of a worktree does."""
    files = [path for path in text_files() if path != ROOT / ".git"]
    assert breaking(files, lambda path: HOME_OF_SOMEBODY.findall(text_of(path))) == {}


def test_scripts_of_the_page_stay_within_their_budget() -> None:
    """120 kB in all, 51 of them uPlot's: a phone waits for each further one. Nothing is built: they are those of the tree."""
    sizes = {path.name: path.stat().st_size for path in (ROOT / "dashboard" / "assets").glob("*.js")}
    assert "uplot.js" in sizes
    assert sum(sizes.values()) < SCRIPT_BYTES_MAX
