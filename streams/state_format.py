"""Refuse state that a later version of Tally wrote: what it would be taken for is worse than a stop.

A block and a span of rows tell their format by their first byte: blocks of this version start with 1, spans with a msgpack
array, and 2 to 31 are kept for formats to come. A worker's folder has its format in a file.
"""

from __future__ import annotations

from pathlib import Path

from streams.errors import NewerStateError, SettingsError
from streams.version import VERSION

STATE_FORMAT = 1
"""Of a worker's folder. A version that raises it reads all lower ones, or says in the changelog that it does not."""
FORMAT_BYTE_MAX = 0x1F
"""Texts and msgpack arrays start higher, so damaged bytes are not taken for a later format."""
MARK = "state-format"
REMEDY = "start the version that wrote it again (docs/production.md, Rollback)"


def refuse_newer(raw: bytes, *, known: int, what: str) -> None:
    """Return unless *raw* starts with a format byte above *known*.

    Raises:
        NewerStateError: it does; one line.
    """
    if raw and known < raw[0] <= FORMAT_BYTE_MAX:
        raise NewerStateError(f"{what} has format {raw[0]}, tally {VERSION} reads up to {known}: {REMEDY}")


def mark_folder(folder: Path) -> None:
    """Make a worker's folder and write its format into it; one without a mark is of format 1.

    Raises:
        NewerStateError: a later version has used it.
        SettingsError: it cannot be made or written.
    """
    mark = folder / MARK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        text = mark.read_text(encoding="ascii").strip() if mark.exists() else "1"
        found = int(text) if text.isdecimal() else 0
        if found < STATE_FORMAT or not mark.exists():
            mark.write_text(f"{STATE_FORMAT}\n", encoding="ascii")
    except OSError as error:
        raise SettingsError(f"stack.home: cannot use {folder}: {error.strerror}; set TALLY_STACK_HOME") from error
    if found > STATE_FORMAT:
        raise NewerStateError(f"the state in {folder} has format {found}, tally {VERSION} reads up to {STATE_FORMAT}: {REMEDY}")
