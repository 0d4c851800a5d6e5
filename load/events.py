"""Make up events of the spec's cardinalities, the same for the same seed: bytes as a shop's sender would write them.

About 3 µs an event, so tests and benches may fill a topic with them. Each field draws from a random stream of its own, so
the events do not depend on how many are drawn at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

START_MS = 1_646_092_800_000
"""2022-03-01T00:00:00.000Z, where the public load generator begins its day."""
CHUNK_EVENTS = 10_000
COUNTRIES = 100
ORIGINS = 1_000
BRANDS = 250
CATEGORIES = 67
PRODUCTS = 100_000
PRICE_MAX = 33_000
DEVICES = (b"PC", b"MOBILE", b"TV")
SECONDS_REMEMBERED_MAX = 10_000

_COOKIE_MIXER = 0x9E3779B97F4A7C15F39D  # Odd, so that multiplying permutes the numbers of 80 bits.
_COOKIE_MASK = (1 << 80) - 1
_COUNTRIES = [b"%c%c" % (65 + number // 10, 65 + number % 10) for number in range(COUNTRIES)]
_ORIGINS = [b"CAMPAIGN_%d" % number for number in range(ORIGINS)]
_BRANDS = [b"Brand_%d" % number for number in range(BRANDS)]
_CATEGORIES = [b"Category_%d" % number for number in range(CATEGORIES)]
_EVENT = (
    b'{"product_info":{"product_id":%d,"brand_id":"%b","category_id":"%b","price":%d},'
    b'"time":"%b","cookie":"%b","country":"%b","device":"%b","action":"%b","origin":"%b"}'
)


@dataclass(frozen=True, kw_only=True)
class Mix:
    """What the events are like.

    Attributes:
        cookies: users, all equally likely but for the hot ones.
        hot_cookies: the first so many users get *hot_cookie_share* of all events besides.
        hot_cookie_share: from 0 to 1; 1 with one hot cookie sends everything to one partition.
        skew: exponent of Zipf's law for origins, brands and categories; 0 makes all equally likely, which gives the cell
            counts of the spec's sizing, almost a cell an event.
        buy_share: share of BUY, the rest is VIEW.
        late_share: share of events whose time lies back, by up to *late_s_max* seconds.
    """

    cookies: int = 1_000_000
    hot_cookies: int = 20
    hot_cookie_share: float = 0.05
    skew: float = 1.0
    buy_share: float = 0.2
    late_share: float = 0.0
    late_s_max: float = 20.0


class GeneratedEvent(NamedTuple):
    """One event: the key of its record, its time (milliseconds since 1970), and its JSON."""

    cookie: bytes
    at_ms: int
    body: bytes


class EventSource:
    """Draws events one after the other."""

    def __init__(self, seed: int, mix: Mix | None = None) -> None:
        self._mix = mix or Mix()
        seeds = iter(np.random.SeedSequence(seed).spawn(16))
        self._origin, self._brand, self._category = (
            _Choice(size, self._mix.skew, next(seeds)) for size in (ORIGINS, BRANDS, CATEGORIES)
        )
        self._is_hot, self._hot, self._cookie, self._is_late, self._lateness = (_stream(next(seeds)) for _ in range(5))
        self._country, self._device, self._action, self._product = (_stream(next(seeds)) for _ in range(4))
        self._price, self._dropping = (_stream(next(seeds)) for _ in range(2))
        self._seconds: dict[int, bytes] = {}

    def draw(self, times_ms: NDArray[np.int64]) -> list[GeneratedEvent]:
        """Return one event for each of *times_ms* (milliseconds since 1970), late ones moved back."""
        count = len(times_ms)
        columns = (
            self._cookies(count),
            self._times(times_ms),
            _below(PRODUCTS, self._product, count),
            self._brand.draw(count),
            self._category.draw(count),
            _below(PRICE_MAX + 1, self._price, count),
            _below(COUNTRIES, self._country, count),
            _below(len(DEVICES), self._device, count),
            (self._action.random(count) < self._mix.buy_share).tolist(),
            self._origin.draw(count),
            (self._dropping.random(count) < 0.5).tolist(),
        )
        return [self._event(*values) for values in zip(*columns, strict=True)]

    def _event(  # noqa: PLR0913, PLR0917 - one argument a field
        self,
        number: int,
        at_ms: int,
        product: int,
        brand: int,
        category: int,
        price: int,
        country: int,
        device: int,
        is_buy: bool,
        origin: int,
        drops_zeros: bool,
    ) -> GeneratedEvent:
        cookie = cookie_of(number)
        body = _EVENT % (
            product,
            _BRANDS[brand],
            _CATEGORIES[category],
            price,
            self._time_text(at_ms, drops_zeros),
            cookie,
            _COUNTRIES[country],
            DEVICES[device],
            b"BUY" if is_buy else b"VIEW",
            _ORIGINS[origin],
        )
        return GeneratedEvent(cookie, at_ms, body)

    def _cookies(self, count: int) -> list[int]:
        hot = (self._hot.random(count) * self._mix.hot_cookies).astype(np.int64)
        usual = (self._cookie.random(count) * self._mix.cookies).astype(np.int64)
        chosen: list[int] = np.where(self._is_hot.random(count) < self._mix.hot_cookie_share, hot, usual).tolist()
        return chosen

    def _times(self, times_ms: NDArray[np.int64]) -> list[int]:
        count = len(times_ms)
        back_ms = (self._lateness.random(count) * self._mix.late_s_max * 1000).astype(np.int64)
        moved: list[int] = (times_ms - back_ms * (self._is_late.random(count) < self._mix.late_share)).tolist()
        return moved

    def _time_text(self, at_ms: int, drops_zeros: bool) -> bytes:
        """Return the text of a time; senders leave ".000" out, some always and some never."""
        second, milliseconds = divmod(at_ms, 1000)
        text = self._seconds.get(second)
        if text is None:
            if len(self._seconds) >= SECONDS_REMEMBERED_MAX:
                self._seconds.clear()
            text = self._seconds[second] = f"{datetime.fromtimestamp(second, UTC):%Y-%m-%dT%H:%M:%S}".encode("ascii")
        return text + b"Z" if drops_zeros and not milliseconds else b"%b.%03dZ" % (text, milliseconds)


class _Choice:
    """Draws numbers below *size* by Zipf's law."""

    def __init__(self, size: int, skew: float, seed: np.random.SeedSequence) -> None:
        weights = np.arange(1, size + 1, dtype=np.float64) ** -skew
        self._bounds = np.cumsum(weights) / weights.sum()
        self._bounds[-1] = 1.0
        self._stream = _stream(seed)

    def draw(self, count: int) -> list[int]:
        chosen: list[int] = np.searchsorted(self._bounds, self._stream.random(count), side="right").tolist()
        return chosen


def events(
    seed: int, *, count: int, start_ms: int = START_MS, step_ms: float = 1.0, mix: Mix | None = None
) -> Iterator[GeneratedEvent]:
    """Yield *count* events whose times begin at *start_ms* and rise by *step_ms*, but for the late ones of *mix*.

    >>> [event.at_ms - START_MS for event in events(1, count=3)]
    [0, 1, 2]
    """
    source = EventSource(seed, mix)
    for first in range(0, count, CHUNK_EVENTS):
        numbers = np.arange(first, min(first + CHUNK_EVENTS, count))
        yield from source.draw(start_ms + (numbers * step_ms).astype(np.int64))


def cookie_of(number: int) -> bytes:
    """Return the cookie of a user, 20 characters; the hot users are the first.

    >>> cookie_of(0), cookie_of(1)
    (b'00000000000000000000', b'9e3779b97f4a7c15f39d')
    """
    return b"%020x" % (number * _COOKIE_MIXER & _COOKIE_MASK)


def _stream(seed: np.random.SeedSequence) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def _below(size: int, stream: np.random.Generator, count: int) -> list[int]:
    numbers: list[int] = (stream.random(count) * size).astype(np.int64).tolist()
    return numbers
