"""Recompute everything from the source topic with plain dicts: slow, short, and sharing no code with the product."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from kafka import KafkaConsumer, TopicPartition

IDLE_MS = 3_000
Filters = Mapping[str, str]


@dataclass
class Oracle:
    """What should be answered, by plain recomputation.

    Attributes:
        counts, sums: by (minute text, action, origin, brand, category).
        users: events by (cookie, action), as (time in ns text order, arrival, event).
        records: how many source records were read.
    """

    counts: Counter[tuple[str, ...]] = field(default_factory=Counter)
    sums: Counter[tuple[str, ...]] = field(default_factory=Counter)
    users: defaultdict[tuple[str, str], list[tuple[int, int, dict[str, Any]]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    records: int = 0

    def add(self, value: bytes, arrival: int) -> None:
        """Count one valid event."""
        event = json.loads(value)
        product = event["product_info"]
        cell = (event["time"][:16], event["action"], event["origin"], product["brand_id"], product["category_id"])
        self.counts[cell] += 1
        self.sums[cell] += product["price"]
        self.users[event["cookie"], event["action"]].append((at_ms(event["time"]), arrival, event))
        self.records += 1

    def aggregates(self, start: str, minutes: int, aggregates: Sequence[str], filters: Filters) -> dict[str, Any]:
        """Return the whole answer for *minutes* from *start* (`YYYY-MM-DDTHH:MM`) on; filters in the contract's order."""
        names = ("action", "origin", "brand_id", "category_id")
        wanted = [(names.index(name) + 1, value) for name, value in filters.items()]
        count: Counter[str] = Counter()
        total: Counter[str] = Counter()
        for cell, number in self.counts.items():
            if all(cell[place] == value for place, value in wanted):
                count[cell[0]] += number
                total[cell[0]] += self.sums[cell]
        rows = []
        for number in range(minutes):
            instant = datetime.fromisoformat(start).replace(tzinfo=UTC) + timedelta(minutes=number)
            minute = f"{instant:%Y-%m-%dT%H:%M}"
            values = {"COUNT": count[minute], "SUM_PRICE": total[minute]}
            rows.append([f"{minute}:00", *filters.values(), *(str(values[name]) for name in aggregates)])
        return {"columns": ["1m_bucket", *filters, *(name.lower() for name in aggregates)], "rows": rows}

    def profile(self, cookie: str, start_ms: int, end_ms: int, limit: int = 200) -> dict[str, Any]:
        """Return the whole answer: trim to 200, then the range, then the limit."""
        answer: dict[str, Any] = {"cookie": cookie}
        for name, action in (("views", "VIEW"), ("buys", "BUY")):
            newest = sorted(self.users.get((cookie, action), ()), key=lambda row: (-row[0], -row[1]))[:200]
            answer[name] = [event for at, _, event in newest if start_ms <= at < end_ms][:limit]
        return answer

    def totals(self) -> dict[tuple[str, ...], tuple[int, int]]:
        """Return (count, sum of prices) by cell."""
        return {cell: (number, self.sums[cell]) for cell, number in self.counts.items()}


def at_ms(time: str) -> int:
    """Return milliseconds since 1970 of an event's time."""
    head, _, fraction = time.removesuffix("Z").partition(".")
    seconds = int(datetime.fromisoformat(head).replace(tzinfo=UTC).timestamp())
    return seconds * 1000 + int(fraction[:3].ljust(3, "0"))


def read_topic(servers: str, topic: str) -> Iterable[Any]:
    """Yield every record of a topic up to its present end, partition by partition."""
    consumer = KafkaConsumer(
        bootstrap_servers=servers, enable_auto_commit=False, max_partition_fetch_bytes=8 << 20, isolation_level="read_committed"
    )
    try:
        partitions = [TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic) or ())]
        ends = consumer.end_offsets(partitions)
        for partition in partitions:
            consumer.assign([partition])
            consumer.seek_to_beginning(partition)
            while consumer.position(partition) < ends[partition]:
                for records in consumer.poll(timeout_ms=IDLE_MS).values():
                    yield from records
    finally:
        consumer.close()


def oracle_of(servers: str, topic: str, *, skip: Iterable[tuple[int, int]] = ()) -> Oracle:
    """Return the oracle of a whole topic but for the records (partition, offset) in *skip*."""
    skipped = set(skip)
    oracle = Oracle()
    for record in read_topic(servers, topic):
        if (record.partition, record.offset) not in skipped:
            oracle.add(record.value, record.offset)
    return oracle
