"""Make the one record of a Labs transaction: its id, its time, its bytes. Pure; the same transaction gives the same record."""

from __future__ import annotations

import math
from hashlib import sha256
from typing import NamedTuple

import msgspec
from pydantic import TypeAdapter

from gateway.analytics_txn import AnalyticsTxn, Product
from streams.early_time import kept_time
from streams.schemas import EventV1

_EVENT = TypeAdapter(EventV1)


class Submission(NamedTuple):
    """Who sends a transaction, and how it is told from others.

    Attributes:
        source: name of the identity; empty without authentication.
        scheme: how the identity was found.
        session: digest of the session that the request names, empty where it names none.
        idempotency_key: of the request; empty: the content tells.
    """

    source: str = ""
    scheme: str = "none"
    session: str = ""
    idempotency_key: str = ""


def product_name(txn: AnalyticsTxn) -> str:
    """Return the name of the product, which is also the record's key: its order is kept."""
    return Product(txn.product).name


def txn_id(txn: AnalyticsTxn, submission: Submission) -> str:
    """Return 64 hexadecimal digits that are equal for the same transaction sent again.

    An `Idempotency-Key` names it within its identity. Else the content does: product, user, time and datapoints in their order,
    in JSON that is written in one way only. Without a user in the body the session belongs to the content: two visitors who
    click the same in the same second are two.

    >>> txn = AnalyticsTxn(product=3, timestamp=1704067200, data=[])
    >>> txn_id(txn, Submission())[:16], txn_id(txn, Submission(idempotency_key="a-1"))[:16]
    ('5562d2b04d245575', '529427fb96446fcf')
    """
    if submission.idempotency_key:
        content: list[object] = ["key", submission.scheme, submission.source, submission.idempotency_key]
    else:
        who = ["user", txn.pennkey] if txn.pennkey else ["session", submission.session]
        data = [(each.key, each.value) for each in txn.data]
        content = ["content", product_name(txn), who, time_us(txn.timestamp), data]
    return sha256(msgspec.json.encode(content)).hexdigest()


def record_of(txn: AnalyticsTxn, *, id_: str, user: str, source: str) -> bytes:
    """Return the record's value: an `EventV1` as JSON.

    The transaction has been checked by the same types, so nothing is checked again.
    """
    time, properties = kept_time(time_us(txn.timestamp))
    event = EventV1.model_construct(
        kind="TRANSACTION",
        id=id_,
        product=product_name(txn),
        user=user,
        time=time,
        source=source,
        properties=properties,
        data=txn.data,
    )
    return _EVENT.dump_json(event)


def time_us(seconds: float) -> int:
    """Return microseconds since 1970, negative before it; rounded, as a float of today's dates is that exact.

    Whole and fraction apart: their product with a million would lose digits of far dates.

    >>> time_us(1704067200.75), time_us(-0.5), time_us(253402300799)
    (1704067200750000, -500000, 253402300799000000)
    """
    whole = math.floor(seconds)
    return whole * 1_000_000 + round((seconds - whole) * 1_000_000)
