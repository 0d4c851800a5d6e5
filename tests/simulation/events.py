"""Make the events of a schedule, each with what it must become, written down without the product's folds."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple

import msgspec

from streams.partitioner import partition_of
from tests.support.builders import a_record
from tests.support.tags import START_MINUTE

PARTITIONS = 2
MINUTES = 2
VALUES_EACH = 48
DEAD_SHARE = 0.04
HOLE_SHARE = 0.05
BASE_MS = START_MINUTE * 60_000

Cell = tuple[Any, ...]
"""Minute since 1970 and the dimensions."""


class Template(NamedTuple):
    """A value of the source and what it must become: a cell with its price, and a row but for its offset."""

    value: bytes
    cell: Cell
    price: int
    row_prefix: bytes
    inverted_time: int
    row_value: bytes
    shown: tuple[str, ...]


@dataclass(slots=True)
class SourceRecord:
    """A record of the source topic; `template` is None for one that cannot be counted."""

    offset: int
    value: bytes | None
    template: Template | None
    key: bytes = b"k"
    headers: Sequence[tuple[str, bytes | None]] = ()
    timestamp: int = 0

    def row(self) -> tuple[bytes, bytes]:
        """Return key and value of the row that this event must become."""
        assert self.template is not None
        inverse = (1 << 63) - 1
        order = struct.pack(">QQ", self.template.inverted_time, inverse - self.offset)
        return self.template.row_prefix + order, self.template.row_value


def a_template(rng: Random, cookie: str) -> Template:
    """Return one of a few hundred values: few cells, so that events meet in them."""
    minute, second = rng.randrange(MINUTES), rng.randrange(60)
    action, origin, brand = rng.choice(["VIEW", "BUY"]), rng.choice("XY"), rng.choice("ab")
    price, product = rng.randrange(1, 100), rng.randrange(1, 9_999)
    time = f"2022-03-01T00:{minute:02}:{second:02}.000Z"
    value = a_record(
        time=time, cookie=cookie, action=action, origin=origin, brand_id=brand, category_id="c", price=price,
        product_id=product, country="PL", device="PC",
    )  # fmt: skip
    at_ms = BASE_MS + (minute * 60 + second) * 1000
    return Template(
        value=value,
        cell=(START_MINUTE + minute, action, origin, brand, "c"),
        price=price,
        row_prefix=cookie.encode() + b"\0" + {"VIEW": b"V", "BUY": b"B"}[action],
        inverted_time=(1 << 63) - 1 - at_ms,
        row_value=msgspec.msgpack.encode(["PL", "PC", origin, product, brand, "c", price]),
        shown=(cookie, time, action, "PL", "PC", origin, str(product), brand, "c", str(price)),
    )


def make_templates(seed: int) -> list[list[Template]]:
    """Return values by partition; their users belong there."""
    rng = Random(seed)
    users: list[list[str]] = [[] for _ in range(PARTITIONS)]
    for number in range(100):
        user = f"user-{number}"
        users[partition_of(user.encode(), PARTITIONS)].append(user)
    return [[a_template(rng, rng.choice(mine[:6])) for _ in range(VALUES_EACH)] for mine in users]


TEMPLATES = make_templates(7)


def some_records(rng: Random, partition: int, count: int) -> list[SourceRecord]:
    """Return *count* records with rising offsets; some cannot be counted, and some offsets hold none (a marker's place)."""
    records: list[SourceRecord] = []
    offset = 0
    for _ in range(count):
        if rng.random() < HOLE_SHARE:
            offset += rng.randrange(1, 6)
        if rng.random() < DEAD_SHARE:
            records.append(SourceRecord(offset, rng.choice([b"{", None]), None))
        else:
            template = rng.choice(TEMPLATES[partition])
            records.append(SourceRecord(offset, template.value, template))
        offset += 1
    return records


def totals_of(records: Sequence[SourceRecord]) -> dict[Cell, tuple[int, int]]:
    """Return (count, sum) by cell."""
    totals: dict[Cell, tuple[int, int]] = {}
    for record in records:
        if record.template is not None:
            count, total = totals.get(record.template.cell, (0, 0))
            totals[record.template.cell] = (count + 1, total + record.template.price)
    return totals
