"""Expand the body of a request, up to a limit of bytes: gzip, deflate or zstd, whole, and nothing behind it.

Deflate and zstd are one stream. Gzip may be several members, one behind the other, as RFC 1952 has it and log shippers send it.
"""

from __future__ import annotations

import zlib

import zstandard

ZSTD_WINDOW_BYTES_MAX = 8_388_608
"""What a decoder must support (RFC 8878); a frame may ask for gigabytes, before it holds a byte."""
ZSTD_CHUNK_BYTES = 256
"""A block of four bytes may expand to 128 KiB, so so much input may make 8 MiB between two looks at the limit."""
GZIP_MEMBERS_MAX = 100
"""What stands behind each is copied: so many of them, empty, before a megabyte take 15 ms."""
GZIP_BITS, ZLIB_BITS, RAW_BITS = 31, 15, -15
DEFLATE_METHOD = 8


class UnknownEncodingError(Exception):
    """The encoding is none of ours, or more than one."""


class DamagedBodyError(Exception):
    """The body is not whole, and nothing but its encoding: damaged, cut off, or with something behind it."""


class ExpandedTooLargeError(Exception):
    """Expanded, the body has more bytes than the limit."""


def expand(body: bytes, encoding: bytes, *, bytes_max: int) -> bytes:
    """Return what *body* was before it was compressed; memory stays near *bytes_max*, whatever it claims to hold.

    Args:
        body: as it came.
        encoding: the value of `Content-Encoding`, empty where there is none.
        bytes_max: what the result may have.

    Raises:
        UnknownEncodingError: *encoding* names none of ours, or several one on another.
        DamagedBodyError: *body* is not exactly one stream of *encoding*, nor up to `GZIP_MEMBERS_MAX` members of gzip.
        ExpandedTooLargeError: the result would be larger.

    >>> expand(zlib.compress(b"[]"), b"deflate", bytes_max=2)
    b'[]'
    """
    name = encoding.strip().lower()
    if name in (b"", b"identity"):
        if len(body) > bytes_max:
            raise ExpandedTooLargeError
        return body
    if name in (b"gzip", b"x-gzip"):
        return _inflate_members(body, bytes_max)
    if name == b"deflate":
        return _inflate_either(body, bytes_max)
    if name == b"zstd":
        return _expand_zstd(body, bytes_max)
    raise UnknownEncodingError


def _inflate_members(body: bytes, bytes_max: int) -> bytes:
    """Inflate gzip, member by member; the limit is that of all together."""
    members: list[bytes] = []
    rest, size_bytes = body, 0
    for _ in range(GZIP_MEMBERS_MAX):
        member, rest = _inflate_first(rest, GZIP_BITS, bytes_max - size_bytes)
        members.append(member)
        size_bytes += len(member)
        if not rest:
            return b"".join(members)
    raise DamagedBodyError


def _inflate(body: bytes, bits: int, bytes_max: int) -> bytes:
    expanded, rest = _inflate_first(body, bits, bytes_max)
    if rest:
        raise DamagedBodyError
    return expanded


def _inflate_first(body: bytes, bits: int, bytes_max: int) -> tuple[bytes, bytes]:
    """Inflate the stream that *body* begins with; return what it holds, and what stands behind it."""
    stream = zlib.decompressobj(bits)
    try:
        expanded = stream.decompress(body, bytes_max + 1)
    except zlib.error as error:
        raise DamagedBodyError from error
    if len(expanded) > bytes_max:
        raise ExpandedTooLargeError
    if not stream.eof:
        raise DamagedBodyError
    return expanded, stream.unused_data


def _inflate_either(body: bytes, bytes_max: int) -> bytes:
    """Inflate what HTTP calls deflate: with the head of zlib, as it should be, or without, as some send it."""
    if len(body) > 1 and body[0] & 0x0F == DEFLATE_METHOD and int.from_bytes(body[:2], "big") % 31 == 0:
        try:
            return _inflate(body, ZLIB_BITS, bytes_max)
        except DamagedBodyError:
            pass  # raw bytes may look like a head
    return _inflate(body, RAW_BITS, bytes_max)


def _expand_zstd(body: bytes, bytes_max: int) -> bytes:
    context = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES_MAX)
    try:
        size_bytes = zstandard.frame_content_size(body)
        if size_bytes > bytes_max:
            raise ExpandedTooLargeError
        if size_bytes < 0:
            return _expand_zstd_stream(body, context, bytes_max)
        return context.decompress(body, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise DamagedBodyError from error


def _expand_zstd_stream(body: bytes, context: zstandard.ZstdDecompressor, bytes_max: int) -> bytes:
    """Expand a frame that does not say what it holds; the library itself knows no limit then."""
    stream = context.decompressobj()
    chunks: list[bytes] = []
    size_bytes = 0
    for start in range(0, len(body), ZSTD_CHUNK_BYTES):
        if stream.eof:
            raise DamagedBodyError
        chunks.append(stream.decompress(body[start : start + ZSTD_CHUNK_BYTES]))
        size_bytes += len(chunks[-1])
        if size_bytes > bytes_max:
            raise ExpandedTooLargeError
    if not stream.eof or stream.unused_data:
        raise DamagedBodyError
    return b"".join(chunks)
