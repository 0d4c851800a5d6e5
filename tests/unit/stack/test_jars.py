"""Kafka's jars: pinned, hashed, and refused when they are not what was pinned."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import pytest
import requests

from stack import jars
from stack.errors import StackError
from stack.jars import LockedJar, fetch_jars, read_coordinates, read_lock, sha256_of

CONTENT = b"a jar"
JAR = LockedJar("org.example:thing:1.0", hashlib.sha256(CONTENT).hexdigest())


def cached(cache: Path, content: bytes) -> Path:
    path = cache / "org/example/thing/1.0/thing-1.0.jar"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


def downloads(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    def download(_: LockedJar, artifact: Any) -> Path:
        path = Path(artifact.cached_path)
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        return path

    monkeypatch.setattr(jars, "_download", download)


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.name != ".tally.lock"]


def test_lock_file_pins_every_coordinate_and_no_other() -> None:
    """Resolved by itself, jgo mixes versions of Kafka and the broker dies; so nothing is left to resolution."""
    assert [jar.coordinate for jar in read_lock()] == read_coordinates()
    assert len(read_coordinates()) == 46
    assert all(re.fullmatch(r"[0-9a-f]{64}", jar.sha256) for jar in read_lock())


def test_cached_jar_with_its_hash_is_taken(tmp_path: Path) -> None:
    """The second start needs no network."""
    path = cached(tmp_path, CONTENT)
    assert fetch_jars([JAR], cache=tmp_path) == [path]


def test_cached_jar_with_a_wrong_hash_is_refused_by_name(tmp_path: Path) -> None:
    """What runs as our broker is what was pinned, or nothing runs."""
    path = cached(tmp_path, CONTENT + b"!")
    with pytest.raises(StackError, match=f"{re.escape(str(path))} does not have the SHA-256.*delete it"):
        fetch_jars([JAR], cache=tmp_path)


def test_fetched_jar_with_a_wrong_hash_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged download must not be what the next start finds."""
    downloads(monkeypatch, b"<html>login</html>")
    with pytest.raises(StackError, match=r"thing-1\.0\.jar as fetched"):
        fetch_jars([JAR], cache=tmp_path)
    assert files_in(tmp_path) == []


def test_fetched_jar_is_kept_when_its_hash_is_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress is told, and the file lands where Maven would put it."""
    downloads(monkeypatch, CONTENT)
    told: list[str] = []
    (path,) = fetch_jars([JAR], cache=tmp_path, say=told.append)
    assert path == tmp_path / "org/example/thing/1.0/thing-1.0.jar"
    assert sha256_of(path) == JAR.sha256
    assert told == [f"kafka: fetching 1 of 1 jars into {tmp_path}", "kafka: 1 of 1 jars fetched and checked"]
    assert files_in(tmp_path) == [path]


def test_without_network_the_first_start_says_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line, no trace."""

    def refuse(*_: object, **__: object) -> None:
        raise requests.ConnectionError("no route")

    monkeypatch.setattr("jgo.util.http.get", refuse)
    with pytest.raises(StackError, match=r"cannot fetch .*org\.example:thing:1\.0 \(no connection\).*needs the network"):
        fetch_jars([JAR], cache=tmp_path)
