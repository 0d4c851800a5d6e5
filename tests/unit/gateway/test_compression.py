"""What a sender compressed comes back as it was, or is refused: never half of it, never more than the limit."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import suppress

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from gateway.compression import GZIP_MEMBERS_MAX, DamagedBodyError, ExpandedTooLargeError, UnknownEncodingError, expand

LIMIT = 5_242_880


def deflate_raw(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(data) + stream.flush()


def zstd_stream(data: bytes) -> bytes:
    """Return a frame that does not say how much it holds."""
    stream = zstandard.ZstdCompressor().compressobj()
    return stream.compress(data) + stream.flush()


WAYS: dict[str, tuple[bytes, Callable[[bytes], bytes]]] = {
    "gzip": (b"gzip", gzip.compress),
    "x-gzip": (b" X-GZip ", gzip.compress),
    "deflate": (b"deflate", zlib.compress),
    "raw deflate": (b"Deflate", deflate_raw),
    "zstd": (b"zstd", zstandard.ZstdCompressor().compress),
    "zstd of unknown size": (b"zstd", zstd_stream),
}
ways = pytest.mark.parametrize(("encoding", "compress"), WAYS.values(), ids=WAYS)


@ways
@given(data=st.binary(max_size=2_000))
def test_what_was_compressed_comes_back(encoding: bytes, compress: Callable[[bytes], bytes], data: bytes) -> None:
    """Any bytes, the empty ones too."""
    assert expand(compress(data), encoding, bytes_max=LIMIT) == data


@ways
def test_the_limit_holds_to_the_byte(encoding: bytes, compress: Callable[[bytes], bytes]) -> None:
    """security.md row 6: each limit at n and n+1."""
    data = bytes(range(256)) * 40
    assert expand(compress(data), encoding, bytes_max=len(data)) == data
    with pytest.raises(ExpandedTooLargeError):
        expand(compress(data), encoding, bytes_max=len(data) - 1)


@ways
@given(data=st.binary(min_size=1, max_size=300), cut=st.integers(0, 300))
def test_what_is_cut_off_is_no_body(encoding: bytes, compress: Callable[[bytes], bytes], data: bytes, cut: int) -> None:
    """A half would be stored as if it were the whole."""
    whole = compress(data)
    with pytest.raises(DamagedBodyError):
        expand(whole[: cut % len(whole)], encoding, bytes_max=LIMIT)


@ways
@pytest.mark.parametrize("extra", [b"x", b"\0" * 1_000])
def test_nothing_stands_behind_the_body(encoding: bytes, compress: Callable[[bytes], bytes], extra: bytes) -> None:
    """What one reader takes for the end, another reads on from; a second stream is something behind it, too, but for gzip."""
    for tail in (extra, *(() if compress is gzip.compress else (compress(b"more"),))):
        with pytest.raises(DamagedBodyError):
            expand(compress(b"data" * 100) + tail, encoding, bytes_max=LIMIT)


@given(parts=st.lists(st.binary(max_size=300), min_size=1, max_size=5), cut=st.integers(1, 400))
def test_gzip_may_have_several_members(parts: list[bytes], cut: int) -> None:
    """RFC 1952, 2.2: they stand one behind the other; the limit, to the byte, is that of all, and none may be cut off."""
    whole, body = b"".join(parts), b"".join(map(gzip.compress, parts))
    assert expand(body, b"gzip", bytes_max=len(whole)) == whole
    if whole:
        with pytest.raises(ExpandedTooLargeError):
            expand(body, b"gzip", bytes_max=len(whole) - 1)
    last = len(gzip.compress(parts[-1]))
    with pytest.raises(DamagedBodyError):
        expand(body[: -1 - cut % (last - 1)], b"gzip", bytes_max=LIMIT)


def test_members_of_gzip_are_limited() -> None:
    """Empty ones cost time and expand to nothing, and a bomb may be cut into many."""
    assert expand(gzip.compress(b"") * GZIP_MEMBERS_MAX, b"gzip", bytes_max=LIMIT) == b""
    with pytest.raises(DamagedBodyError):
        expand(gzip.compress(b"") * (GZIP_MEMBERS_MAX + 1), b"gzip", bytes_max=LIMIT)
    with pytest.raises(ExpandedTooLargeError):
        expand(gzip.compress(bytes(LIMIT // 4)) * 5, b"gzip", bytes_max=LIMIT)


@ways
def test_a_bomb_costs_no_more_than_the_limit(encoding: bytes, compress: Callable[[bytes], bytes]) -> None:
    """security.md row 6: a small body that expands beyond all measure is refused, and memory stays bounded."""
    bomb = compress(bytes(64 * LIMIT))
    tracemalloc.start()
    try:
        with pytest.raises(ExpandedTooLargeError):
            expand(bomb, encoding, bytes_max=LIMIT)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 4 * LIMIT


def test_a_frame_that_asks_for_a_large_window_is_refused() -> None:
    """The window is memory of ours that costs the sender nothing."""
    parameters = zstandard.ZstdCompressionParameters(window_log=27)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    with pytest.raises(DamagedBodyError):
        expand(stream.compress(b"x" * 100) + stream.flush(), b"zstd", bytes_max=LIMIT)


@pytest.mark.parametrize("encoding", [b"br", b"gzip, gzip", b"gzip,identity", b"compress", b"\xff"])
def test_other_encodings_are_unknown(encoding: bytes) -> None:
    """One encoding, of those that are written down."""
    with pytest.raises(UnknownEncodingError):
        expand(gzip.compress(b"x"), encoding, bytes_max=LIMIT)


@pytest.mark.parametrize("encoding", [b"", b"identity"])
def test_a_plain_body_stays_as_it_is(encoding: bytes) -> None:
    """Nothing is copied, and the limit holds."""
    body = b"x" * 100
    assert expand(body, encoding, bytes_max=100) is body
    with pytest.raises(ExpandedTooLargeError):
        expand(body, encoding, bytes_max=99)


@given(noise=st.binary(max_size=400), encoding=st.sampled_from([b"gzip", b"deflate", b"zstd"]))
def test_noise_is_refused_or_expanded_but_nothing_else(noise: bytes, encoding: bytes) -> None:
    """No error of a library reaches the route."""
    with suppress(DamagedBodyError, ExpandedTooLargeError):
        assert len(expand(noise, encoding, bytes_max=1_000)) <= 1_000
