"""Keep when a Labs transaction happened that its sender dates before 1970: no event time does, so it stands in the properties.

Minutes and keys of rows count from 1970, so such a record's `time` is the first there is. Postgres holds any year, and its rows
show the true one.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec

EARLIEST = "1970-01-01T00:00:00.000Z"
NO_PROPERTIES = "{}"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
OLDEST = datetime.min.replace(tzinfo=UTC)
"""With an offset a text may name an instant before it, which no date holds."""


class Early(msgspec.Struct):
    """The properties of a record that happened before 1970."""

    occurred_at: str


def kept_time(at_us: int) -> tuple[str, str]:
    """Return `time` and `properties` of a transaction that happened *at_us* microseconds after 1970, or before it.

    >>> kept_time(1_704_067_200_750_000)
    ('2024-01-01T00:00:00.750Z', '{}')
    >>> kept_time(-5_000_000)
    ('1970-01-01T00:00:00.000Z', '{"occurred_at":"1969-12-31T23:59:55.000Z"}')
    """
    text = instant_text(at_us)
    if at_us >= 0:
        return text, NO_PROPERTIES
    return EARLIEST, msgspec.json.encode(Early(text)).decode()


def true_time(time: str, at_ms: int, properties: str) -> tuple[str, int]:
    """Return when a transaction happened, as text and in milliseconds since 1970, out of what its record holds.

    >>> true_time(*("2024-01-01T00:00:00.750Z", 1_704_067_200_750), "{}")
    ('2024-01-01T00:00:00.750Z', 1704067200750)
    >>> true_time(EARLIEST, 0, '{"occurred_at":"1969-12-31T23:59:55.000Z"}')
    ('1969-12-31T23:59:55.000Z', -5000)
    """
    if time != EARLIEST or properties == NO_PROPERTIES:
        return time, at_ms
    try:
        age = datetime.fromisoformat(msgspec.json.decode(properties, type=Early).occurred_at) - EPOCH
    except (msgspec.DecodeError, ValueError, TypeError):  # somebody else's record, of that very moment
        return time, at_ms
    if not OLDEST - EPOCH <= age < timedelta():
        return time, at_ms
    return instant_text(age // timedelta(microseconds=1)), age // timedelta(milliseconds=1)


def instant_text(at_us: int) -> str:
    """Return the instant in UTC, with three digits of fraction where they say it all, else with six.

    >>> instant_text(-62_135_596_800_000_000), instant_text(1_704_067_200_000_001)
    ('0001-01-01T00:00:00.000Z', '2024-01-01T00:00:00.000001Z')
    """
    precision = "microseconds" if at_us % 1000 else "milliseconds"
    return f"{(EPOCH + timedelta(microseconds=at_us)).replace(tzinfo=None).isoformat(timespec=precision)}Z"
