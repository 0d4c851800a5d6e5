"""Remember the tags that were sent, and when each was acknowledged: what the oracle of the load generator knows.

Columns instead of objects: some 60 bytes a tag and 150 a user, about 4 µs a tag.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from load.queries import Tag, decode_tag
from streams.event_time import MINUTE_MS

CHUNK_TAGS = 60_000
CHUNKS_MAX = 60
"""An hour at full rate; older ones are forgotten, and nobody asks for them any more."""
NOBODY = -1
NO_CODE = 0xFFFF
NEVER_S = float("inf")


class SentTag(NamedTuple):
    """One tag.

    Attributes:
        digest: the hash of what must come back, `load.queries.Tag`.
        sent_s, acknowledged_s: by `perf_counter`; NEVER_S while, or because, nobody has said that it is stored.
    """

    number: int
    action: str
    at_ms: int
    digest: int
    sent_s: float
    acknowledged_s: float


class _Chunk:
    """Tags of consecutive numbers, by column."""

    def __init__(self) -> None:
        self.at_ms = array("q")
        self.digest = array("q")
        self.previous = array("q")
        self.sent_s = array("d")
        self.acknowledged_s = array("d")
        self.price = array("i")
        self.codes = {name: array("H") for name in ("action", "origin", "brand_id", "category_id")}
        self.oldest_ms = self.newest_ms = 0

    def add(self, at_ms: int, tag: Tag, *, previous: int, sent_s: float) -> None:
        self.oldest_ms = min(self.oldest_ms, at_ms) if self.at_ms else at_ms
        self.newest_ms = max(self.newest_ms, at_ms)
        self.at_ms.append(at_ms)
        self.digest.append(hash(tag))
        self.previous.append(previous)
        self.sent_s.append(sent_s)
        self.acknowledged_s.append(NEVER_S)
        self.price.append(tag.product_info.price)


class SentTags:
    """The newest tags of a run, by number from 0."""

    def __init__(self, start_ms: int, step_ms: float) -> None:
        """Begin with nothing sent; no tag is younger than *start_ms* + number x *step_ms*."""
        self._start_ms = start_ms
        self._step_ms = step_ms
        self._chunks: list[_Chunk] = []
        self._first = 0
        self._newest: dict[bytes, int] = {}
        self._codes: dict[str, int] = {}
        self._texts: list[str] = []
        self.count = 0

    @property
    def since_ms(self) -> int:
        """The event time from which on every tag is remembered, milliseconds since 1970."""
        return self._time_ms(self._first)

    def add(self, cookie: bytes, at_ms: int, body: bytes, *, sent_s: float) -> int:
        """Remember a tag that is sent now; return its number."""
        number = self.count
        if not number % CHUNK_TAGS:
            self._chunks.append(_Chunk())
            if len(self._chunks) > CHUNKS_MAX:
                del self._chunks[0]
                self._first += CHUNK_TAGS
        tag, chunk = decode_tag(body), self._chunks[-1]
        chunk.add(at_ms, tag, previous=self._newest.get(cookie, NOBODY), sent_s=sent_s)
        product = tag.product_info
        texts = (tag.action, tag.origin, product.brand_id, product.category_id)
        for codes, text in zip(chunk.codes.values(), texts, strict=True):
            codes.append(self._code_of(text))
        self._newest[cookie] = number
        self.count += 1
        return number

    def acknowledge(self, number: int, at_s: float) -> None:
        """Note that the gateway has said that a tag is stored."""
        if number >= self._first:
            chunk, place = self._at(number)
            chunk.acknowledged_s[place] = at_s

    def of_user(self, cookie: bytes, *, since_ms: int) -> Iterator[SentTag]:
        """Yield the tags of a user that are not older than *since_ms*, the last sent first."""
        number = self._newest.get(cookie, NOBODY)
        while number >= self._first and self._time_ms(number) >= since_ms:
            chunk, place = self._at(number)
            if chunk.at_ms[place] >= since_ms:
                action = self._texts[chunk.codes["action"][place]]
                yield SentTag(
                    number,
                    action,
                    chunk.at_ms[place],
                    chunk.digest[place],
                    chunk.sent_s[place],
                    chunk.acknowledged_s[place],
                )
            number = chunk.previous[place]

    def totals(
        self, first: int, end: int, filters: Mapping[str, str], *, stored_by_s: float
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return count and sum of prices of each minute from *first* to *end*; shape (2, minutes) both.

        Returns:
            Of the tags that were acknowledged by *stored_by_s*, and of all that were sent.
        """
        least, most = np.zeros((2, end - first), np.int64), np.zeros((2, end - first), np.int64)
        for chunk in self._chunks:
            if chunk.newest_ms >= first * MINUTE_MS and chunk.oldest_ms < end * MINUTE_MS:
                minutes, prices, is_stored = self._matching(chunk, filters, stored_by_s)
                minutes -= first
                inside = (minutes >= 0) & (minutes < end - first)
                most += _sum(minutes[inside], prices[inside], end - first)
                least += _sum(minutes[inside & is_stored], prices[inside & is_stored], end - first)
        return least, most

    def _matching(
        self, chunk: _Chunk, filters: Mapping[str, str], stored_by_s: float
    ) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.bool_]]:
        """Return minute, price, and whether it was acknowledged in time, of the tags that match."""
        matches = np.ones(len(chunk.at_ms), np.bool_)
        for name, text in filters.items():
            matches &= np.frombuffer(chunk.codes[name], np.uint16) == self._codes.get(text, NO_CODE)
        places = np.flatnonzero(matches)
        minutes = np.frombuffer(chunk.at_ms, np.int64)[places] // MINUTE_MS
        is_stored = np.frombuffer(chunk.acknowledged_s, np.float64)[places] <= stored_by_s
        return minutes, np.frombuffer(chunk.price, np.int32)[places], is_stored

    def _code_of(self, text: str) -> int:
        code = self._codes.get(text)
        if code is None:
            code = self._codes[text] = len(self._texts)
            self._texts.append(text)
        return code

    def _at(self, number: int) -> tuple[_Chunk, int]:
        index, place = divmod(number - self._first, CHUNK_TAGS)
        return self._chunks[index], place

    def _time_ms(self, number: int) -> int:
        return self._start_ms + int(number * self._step_ms)


def _sum(minutes: NDArray[np.int64], prices: NDArray[np.int32], length: int) -> NDArray[np.int64]:
    """Return count and sum of prices of each minute; as floats the sums are exact up to 2^53."""
    sums = np.bincount(minutes, weights=prices, minlength=length).astype(np.int64)
    return np.stack((np.bincount(minutes, minlength=length).astype(np.int64), sums))
