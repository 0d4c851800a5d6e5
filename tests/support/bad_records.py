"""Hold one record of every kind that nobody can count, and write records as another's producer would."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

from aiokafka import AIOKafkaProducer

from tests.support.builders import a_record, a_user_tag, record_bytes

MIB = 1 << 20
NOBODYS = "nobody's"
"""The `product_id` of all of them: a text, so that no count of events takes one for its own."""

BAD: dict[str, tuple[bytes | None, bytes | None, str]] = {
    "a null value": (b"k", None, "empty"),
    "an empty value": (b"k", b"", "empty"),
    "nothing at all": (None, None, "empty"),
    "a null key": (None, b"no JSON", "not_json"),
    "an empty key": (b"", b"no JSON", "not_json"),
    "bytes": (b"\xff\xfe", bytes(range(256)), "not_json"),
    "2 MB": (b"k", b"x" * (2 * MIB), "too_large"),
    "2 MB of JSON": (b"k", record_bytes(a_user_tag(origin="o" * 2 * MIB, product_id=NOBODYS)), "too_large"),
    "a list": (b"k", b"[1,2,3]", "schema"),
    "a number": (b"k", b"17", "schema"),
    "null": (b"k", b"null", "schema"),
    "no fields": (b"k", b"{}", "schema"),
    "a price of text": (b"k", a_record(price="5", product_id=NOBODYS), "schema"),
    "a price that is no integer": (b"k", a_record(price=1.5, product_id=NOBODYS), "schema"),
    "a price that is no number": (b"k", a_record(price=float("nan"), product_id=NOBODYS), "schema"),
    "a price past 32 bits": (b"k", a_record(price=2**31, product_id=NOBODYS), "schema"),
    "an unknown action": (b"k", a_record(action="view", product_id=NOBODYS), "schema"),
    "a cookie that is a number": (b"k", a_record(cookie=1, product_id=NOBODYS), "schema"),
    "February 30": (b"k", a_record(time="2022-02-30T00:00:00Z", product_id=NOBODYS), "time"),
    "NUL": (b"k", a_record(cookie="a\0b", product_id=NOBODYS), "text"),
    "a lone surrogate": (b"k", a_record(product_id=NOBODYS).replace(b"CAMPAIGN_321", b"\\ud800"), "text"),
    "deep nesting": (b"k", b"[" * 5_000 + b"]" * 5_000, "not_json"),
    "deep nesting of objects": (b"k", b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "not_json"),
}
"""Key, value and reason code, by what is wrong."""


def throw(
    servers: str,
    topic: str,
    records: Sequence[tuple[bytes | None, bytes | None]],
    *,
    partition: int,
    headers: Iterable[Any] = (),
) -> list[int]:
    """Write records (key, value) in this order and return their offsets; not idempotent, a second call writes them again."""
    headers, left, offsets = list(headers), deque(records), list[int]()

    async def send() -> None:
        producer = AIOKafkaProducer(bootstrap_servers=servers, max_request_size=4 * MIB, max_batch_size=MIB)
        await producer.start()
        try:
            while left:  # batches by hand: `send` refuses what a hostile client does not
                batch = producer.create_batch()
                while left and batch.append(key=left[0][0], value=left[0][1], timestamp=None, headers=headers):
                    left.popleft()
                stored = await (await producer.send_batch(batch, topic, partition=partition))
                offsets.extend(range(stored.offset, stored.offset + batch.record_count()))
        finally:
            await producer.stop()

    asyncio.run(send())
    return offsets
