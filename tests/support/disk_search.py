"""Search files for the bytes of a text as a thief of the disk would: raw, and where a format compresses, what it holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from aiokafka.record.memory_records import MemoryRecords

WINDOW_BYTES = 10
"""A compressed block may hold a text in parts: any ten bytes of a random name are a find."""


def windows_of(text: str) -> set[bytes]:
    """Return all that a text is searched by: its parts, and those of its hexadecimal form, in which RocksDB logs keys."""
    raw = text.encode()
    parts = {raw[start : start + WINDOW_BYTES] for start in range(len(raw) - WINDOW_BYTES + 1)}
    hexadecimal = {part.hex().encode() for part in parts}
    return parts | hexadecimal | {part.upper() for part in hexadecimal}


def files_with(folder: Path, text: str, *, without: tuple[str, ...] = ()) -> list[str]:
    """Return the files under a folder that hold a part of a text; folders named in *without* are left out."""
    wanted = windows_of(text)
    return [
        str(path.relative_to(folder))
        for path in files_of(folder)
        if not set(without) & set(path.relative_to(folder).parts) and holds(bytes_of(path), wanted)
    ]


def segments_with(data: Path, topic: str, text: str) -> list[str]:
    """Return the files of a topic's partitions that hold a part of a text, superseded and deleted records included."""
    wanted = windows_of(text)
    found: list[str] = []
    for folder in sorted(data.glob(f"{topic}-*")):
        for path in files_of(folder):
            raw = bytes_of(path)
            is_log = ".log" in path.name
            if holds(raw, wanted) or (is_log and any(holds(part, wanted) for part in parts_of(raw))):
                found.append(f"{folder.name}/{path.name}")
    return found


def parts_of(segment: bytes) -> Iterator[bytes]:
    """Yield every key, value and header of a segment of Kafka, decompressed."""
    batches = MemoryRecords(segment)
    while batches.has_next():
        batch = batches.next_batch()
        assert batch is not None
        for record in batch:
            yield from (part for part in (record.key, record.value) if part)
            yield from (held for _, held in record.headers if held)


def holds(raw: bytes, wanted: set[bytes]) -> bool:
    return any(part in raw for part in wanted)


def bytes_of(path: Path) -> bytes:
    """Return what a file holds; nothing where it has just been deleted."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def files_of(folder: Path) -> Iterator[Path]:
    """Yield the files under a folder, in order."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path
