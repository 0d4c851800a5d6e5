"""The page's files are answered by name, with a type, an ETag and the headers that keep a page safe."""

from __future__ import annotations

import gzip
import re

import pytest

from dashboard.files import FOLDER, PAGE, SECURITY_HEADERS, answer_file, read_files

CODE = [name for name in read_files() if name.endswith((".js", ".html", ".css")) and not name.startswith("uplot")]
PARSES_TEXT = re.compile(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\b|new Function|srcdoc")


@pytest.mark.parametrize("path", sorted(FOLDER.iterdir()), ids=lambda path: path.name)
def test_every_file_is_served_as_it_lies_there(path: object) -> None:
    """A type that is not in the list would leave a file out without a word."""
    name = getattr(path, "name", "")
    answer = answer_file(name, {})
    assert answer is not None
    assert answer.body == (FOLDER / name).read_bytes()
    assert set(SECURITY_HEADERS) < set(answer.headers)


def test_known_file_is_not_sent_again() -> None:
    """A client may send the tag back with or without its mark of weakness."""
    whole = answer_file(PAGE, {})
    assert whole is not None
    for tag in (whole.headers["ETag"], whole.headers["ETag"].removeprefix("W/")):
        again = answer_file(PAGE, {"if-none-match": tag})
        assert again is not None
        assert (again.status, again.body) == (304, b"")
    other = answer_file(PAGE, {"if-none-match": '"other"'})
    assert other is not None
    assert other.status == 200


def test_file_is_packed_for_who_can_unpack_it() -> None:
    """A third of the bytes on a phone; the same bytes after unpacking."""
    packed = answer_file("uplot.js", {"accept-encoding": "br;q=1.0, gzip;q=0.8"})
    assert packed is not None
    assert packed.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed.body) == read_files()["uplot.js"].body
    assert len(packed.body) < len(read_files()["uplot.js"].body) / 2


@pytest.mark.parametrize("name", ["", ".", "..", "../files.py", "/etc/hosts", "files.py", "index.html\0"])
def test_what_is_not_in_the_list_is_not_there(name: str) -> None:
    """No path is ever made from a name."""
    assert answer_file(name, {}) is None


@pytest.mark.parametrize("name", CODE)
def test_no_code_makes_html_of_text(name: str) -> None:
    """What an event holds reaches the page as text only; a parser of HTML would be the way around that."""
    assert not PARSES_TEXT.findall(read_files()[name].body.decode())


def test_page_has_nothing_inline() -> None:
    """The policy would block it, and the page would be broken for everybody."""
    page = read_files()[PAGE].body.decode()
    assert not re.findall(r"<script(?![^>]*\bsrc=)[^>]*>|<style|\sstyle=|\son\w+=|javascript:", page)
    assert not re.findall(r"(?:src|href)=\"(?:https?:)?//", page)


def test_chart_library_keeps_its_licence() -> None:
    """MIT asks for its text beside the copy."""
    licence = read_files()["uplot.LICENSE.txt"].body.decode()
    assert "The MIT License" in licence
    assert "uPlot (v1.6." in read_files()["uplot.js"].body[:200].decode()
