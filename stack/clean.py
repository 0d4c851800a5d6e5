"""Remove what the commands created, after asking; nothing that runs is stopped, nothing shared is touched."""

from __future__ import annotations

import shutil
from pathlib import Path

from stack.home import StackHome
from stack.postgres import LocalPostgres
from stack.processes import ROOT
from stack.progress import say

CACHES = (".mypy_cache", ".pytest_cache", ".ruff_cache", ".import_linter_cache", ".hypothesis")


def clean(home: StackHome) -> bool:
    """Remove the stack's folder and the caches when the user says yes; return whether that was done.

    Kafka's jars stay in the user's Maven cache, which other programs share.

    Raises:
        StackError: a job runs in *home*.
    """
    folders = [folder for folder in _folders_of(home) if folder.exists()]
    if not folders:
        say("nothing to remove")
        return True
    if home.path.exists():
        with home.locked(url="make clean"):
            return _remove_if_wanted(folders)
    return _remove_if_wanted(folders)


def _folders_of(home: StackHome) -> list[Path]:
    postgres = LocalPostgres(home.path / "postgres")
    folders = {home.path, postgres.place, *(ROOT / name for name in CACHES)}
    if home.manager_socket.parent != home.path:
        folders.add(home.manager_socket.parent)
    return sorted(folder for folder in folders if folder != postgres.home)


def _remove_if_wanted(folders: list[Path]) -> bool:
    say("this removes, with all data:")
    for folder in folders:
        say(f"    {folder}")
    try:
        answer = input("go on? [y/N] ")
    except EOFError:
        answer = ""
    if answer.strip().lower() not in ("y", "yes"):
        say("nothing removed")
        return False
    for folder in folders:
        shutil.rmtree(folder)
    say("removed; Kafka's jars stay in your Maven cache")
    return True
