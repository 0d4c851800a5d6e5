"""Events made up for load, tests and benchmarks."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

from load.events import BRANDS, CATEGORIES, COUNTRIES, ORIGINS, PRICE_MAX, START_MS, EventSource, Mix, cookie_of, events
from streams.codecs import Codec
from streams.topics import USER_TAGS

COUNT = 20_000


def test_events_are_the_same_for_the_same_seed() -> None:
    """A failed run can be run again, and an oracle can make the same events up by itself."""
    assert list(events(7, count=500)) == list(events(7, count=500))
    assert list(events(7, count=500)) != list(events(8, count=500))


def test_events_do_not_depend_on_how_many_are_drawn_at_a_time() -> None:
    """The generator of load draws few at a time, a bench many: both mean the same events."""
    times_ms = START_MS + np.arange(300)
    whole, parts = EventSource(3), EventSource(3)
    drawn = [event for first in range(0, 300, 7) for event in parts.draw(times_ms[first : first + 7])]
    assert drawn == whole.draw(times_ms)


def test_every_event_is_valid_and_says_what_it_is() -> None:
    """Load of refused events would measure nothing; key and time beside the JSON are those in it."""
    decode = Codec(USER_TAGS).decode
    for event in events(1, count=5_000, mix=Mix(late_share=0.1)):
        tag, at_ms = decode(event.body)
        assert (tag.cookie.encode(), at_ms) == (event.cookie, event.at_ms)
        assert isinstance(tag.product_info.product_id, int)


def test_times_rise_by_the_step_and_some_drop_their_zeros() -> None:
    """The spec: +1 ms a tag, 60,000 a minute; senders leave ".000" out, as real ones do."""
    made = list(events(1, count=COUNT))
    assert [event.at_ms for event in made] == list(range(START_MS, START_MS + COUNT))
    texts = [json.loads(event.body)["time"] for event in made]
    assert texts[1] == "2022-03-01T00:00:00.001Z"
    assert all(len(text) == 24 for number, text in enumerate(texts) if number % 1000)
    assert {len(texts[number]) for number in range(0, COUNT, 1000)} == {len("2022-03-01T00:00:00Z"), 24}


def test_late_events_lie_back_by_at_most_the_limit() -> None:
    """Out-of-order arrival (A7 point 14) in a known measure."""
    made = list(events(1, count=COUNT, mix=Mix(late_share=0.25, late_s_max=3.0)))
    back_ms = [START_MS + number - event.at_ms for number, event in enumerate(made)]
    assert min(back_ms) >= 0 and max(back_ms) < 3_000
    assert 0.2 < sum(back > 0 for back in back_ms) / COUNT < 0.3


@pytest.mark.parametrize(("field", "cardinality"), [("origin", ORIGINS), ("country", COUNTRIES), ("device", 3), ("action", 2)])
def test_fields_have_the_cardinality_of_the_spec(field: str, cardinality: int) -> None:
    """1,000 origins, 100 countries, 3 devices, 2 actions: what a table or a cache has to hold."""
    values = {json.loads(event.body)[field] for event in events(1, count=COUNT, mix=Mix(skew=0))}
    assert len(values) == cardinality


def test_products_have_the_cardinalities_of_the_spec() -> None:
    """250 brands, 67 categories, prices up to 33,000."""
    products = [json.loads(event.body)["product_info"] for event in events(1, count=COUNT, mix=Mix(skew=0))]
    assert len({product["brand_id"] for product in products}) == BRANDS
    assert len({product["category_id"] for product in products}) == CATEGORIES
    prices = [product["price"] for product in products]
    assert min(prices) >= 0 and 0.99 * PRICE_MAX < max(prices) <= PRICE_MAX


def test_cells_a_minute_without_skew_are_those_of_the_spec() -> None:
    """The sizing of the spec counts 59,946 cells in 60,000 events: nearly every event is its own."""
    cells = set()
    for event in events(1, count=60_000, mix=Mix(skew=0, buy_share=0.5)):
        tag = json.loads(event.body)
        cells.add((tag["action"], tag["origin"], tag["product_info"]["brand_id"], tag["product_info"]["category_id"]))
    assert 59_900 < len(cells) <= 60_000


def test_skew_follows_zipfs_law() -> None:
    """The first of 1,000 origins is twice as frequent as the second, and has a seventh of all."""
    origins = Counter(json.loads(event.body)["origin"] for event in events(1, count=COUNT))
    (first, most), (second, next_most) = origins.most_common(2)
    assert (first, second) == ("CAMPAIGN_0", "CAMPAIGN_1")
    assert 1.7 < most / next_most < 2.3
    assert 0.12 < most / COUNT < 0.15


def test_hot_cookies_get_their_share() -> None:
    """A20: one cookie may get everything; usually 20 get a twentieth, and nearly all others are new."""
    assert {event.cookie for event in events(1, count=100, mix=Mix(hot_cookies=1, hot_cookie_share=1))} == {cookie_of(0)}
    cookies = Counter(event.cookie for event in events(1, count=COUNT))
    hot = sum(cookies[cookie_of(number)] for number in range(20))
    assert 0.045 < hot / COUNT < 0.055
    assert len(cookies) > 0.9 * COUNT


def test_cookies_of_a_million_users_differ() -> None:
    """Two users with one cookie would be one user."""
    assert len({cookie_of(number) for number in range(1_000_000)}) == 1_000_000
