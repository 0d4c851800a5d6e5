"""Answer the files of the page: read once, each with its type, its ETag and the headers that keep a page safe."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent / "assets"
PAGE = "index.html"
CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
ETAG_CHARACTERS = 20
REVALIDATE = "no-cache"
"""A browser keeps a file and asks with its ETag before each use: an upgrade shows at once, and nothing is sent twice."""

SECURITY_HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'self'; base-uri 'none'; object-src 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
}
"""Of the page, its files and its data. No inline script or style: what an event says can then never run."""


class File(NamedTuple):
    """One file as it is answered: *packed* is its body by gzip; *etag* is a weak one, for both are the same file."""

    body: bytes
    packed: bytes
    content_type: str
    etag: str


class Answer(NamedTuple):
    """Status, headers and body of an answer."""

    status: int
    headers: dict[str, str]
    body: bytes


@cache
def read_files() -> Mapping[str, File]:
    """Return the files by name; they are read once, so they stay those of the running version."""
    return {path.name: _read(path) for path in sorted(FOLDER.iterdir()) if path.suffix in CONTENT_TYPES}


def answer_file(name: str, asked: Mapping[str, str]) -> Answer | None:
    """Return the answer to a request for a file, or None when there is none of that name.

    Args:
        name: of a file, or `PAGE`; never a path: what is not in the list is not there.
        asked: the request's headers, whose names may be written in any case. 304 without a body when `If-None-Match` names
            the file as it is; packed when `Accept-Encoding` takes gzip.
    """
    file = read_files().get(name)
    if file is None:
        return None
    headers = {**SECURITY_HEADERS, "Cache-Control": REVALIDATE, "ETag": file.etag, "Vary": "Accept-Encoding"}
    if is_known(asked.get("if-none-match"), file.etag):
        return Answer(304, headers, b"")
    headers["Content-Type"] = file.content_type
    if not takes_gzip(asked.get("accept-encoding")):
        return Answer(200, headers, file.body)
    return Answer(200, {**headers, "Content-Encoding": "gzip"}, file.packed)


def is_known(if_none_match: str | None, etag: str) -> bool:
    """Say whether the header names *etag*, weak or not.

    >>> is_known('"a", W/"b"', 'W/"b"'), is_known("*", 'W/"b"'), is_known('"a"', 'W/"b"'), is_known(None, 'W/"b"')
    (True, True, False, False)
    """
    named = [each.strip().removeprefix("W/") for each in (if_none_match or "").split(",")]
    return etag.removeprefix("W/") in named or "*" in named


def takes_gzip(accept_encoding: str | None) -> bool:
    """Say whether the header allows gzip.

    >>> takes_gzip("br, gzip"), takes_gzip("gzip;q=0.5"), takes_gzip("gzip;q=0"), takes_gzip("identity"), takes_gzip(None)
    (True, True, False, False, False)
    """
    codings = (each.replace(" ", "").partition(";q=") for each in (accept_encoding or "").lower().split(","))
    return any(name == "gzip" and (weight or "1").strip("0.") for name, _, weight in codings)


def _read(path: Path) -> File:
    body = path.read_bytes()
    digest = hashlib.sha256(body).hexdigest()[:ETAG_CHARACTERS]
    return File(body, gzip.compress(body, mtime=0), CONTENT_TYPES[path.suffix], f'W/"{digest}"')
