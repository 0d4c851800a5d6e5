"""Sample answers of the data API, as a system in some state would give them: for pages that need no job."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

DIMENSIONS = ["action", "origin", "brand_id", "category_id"]
VALUES = {
    "action": ["VIEW", "BUY"],
    "origin": [f"CAMPAIGN_{number}" for number in (321, 17, 804, 55, 2, 610, 93, 408, 77, 12, 5, 900)],
    "brand_id": [f"Brand_{number}" for number in range(14)],
    "category_id": ["Shoes", "Trousers", "Coats", "Hats", "Bags", "Socks", "Belts", "Rings", "Books"],
}
PARTITIONS = 4
STEPS_S = ((6 * 3_600, 60), (31 * 86_400, 3_600))


def text_of(at: datetime) -> str:
    """Return an instant as the API writes it."""
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"


def head(now: datetime, *, source: str = "tables", missing: tuple[int, ...] = ()) -> dict[str, Any]:
    """Return what every answer with counts carries."""
    as_of = text_of(now - timedelta(seconds=1))
    return {"source": source, "as_of": as_of, "complete": not missing, "missing_partitions": list(missing), "took_ms": 14.2}


def dimensions() -> dict[str, Any]:
    """Return what the stream can be asked by."""
    return {
        "stream": "user-tags.v1",
        "kinds": ["VIEW", "BUY"],
        "dimensions": DIMENSIONS,
        "sums": ["price"],
        "horizon_s": 86_400,
    }


def live(now: datetime, *, missing: tuple[int, ...] = (), freshness_s: float = 1.4) -> dict[str, Any]:
    """Return the live figures of two workers with two partitions each; the one of *missing* partitions is not ready."""
    wave = 1_000 + 180 * math.sin(now.timestamp() / 9) + 60 * math.sin(now.timestamp() * 2.1)
    counted = now - timedelta(seconds=freshness_s)
    partitions = [
        {
            "partition": number,
            "worker": f"http://127.0.0.1:{6066 + number % 2}",
            "lag_records": 120 + 31 * number,
            "position": 1_000_000 + int(now.timestamp()) % 100_000 + number,
            "counted_up_to": text_of(counted),
        }
        for number in range(PARTITIONS)
        if number not in missing
    ]
    workers = [
        {
            "url": f"http://127.0.0.1:{6066 + index}",
            "ready": not any(number % 2 == index for number in missing),
            "partitions": [number for number in range(PARTITIONS) if number % 2 == index and number not in missing],
            "events_per_s": wave / 2 + 12 * index,
            "lag_records": 151 + 62 * index,
        }
        for index in range(2)
    ]
    return {
        "at": text_of(now),
        "events_per_s": wave,
        "lag_records": 666,
        "lag_s": 0.6,
        "counted_up_to": text_of(counted),
        "freshness_s": freshness_s,
        "complete": not missing,
        "missing_partitions": list(missing),
        "workers": workers,
        "partitions": partitions,
        "sinks": {"state": "ok", "lag_records": 2_310, "last_success": text_of(now - timedelta(seconds=2))},
        "dead_letters": {"total": 23, "per_minute": 0.2},
    }


def series(now: datetime, fields: Mapping[str, str], *, missing: tuple[int, ...] = ()) -> dict[str, Any]:
    """Return waves with some noise, the same for the same minute, for the range and dimension that were asked."""
    start, end = (int(datetime.fromisoformat(fields[name]).timestamp()) for name in ("from", "to"))
    step_s = next((step for span_s, step in STEPS_S if end - start <= span_s), 86_400)
    keys = VALUES.get(fields.get("by", ""), [None])
    last = min(end, int(now.timestamp()) // step_s * step_s + step_s)
    found = [
        {"key": key, "points": [_point(at, step_s, place, now) for at in range(start, last, step_s)]}
        for place, key in enumerate(keys)
    ]
    source = "tables" if step_s == 60 else "postgres"
    open_from = text_of(now.replace(second=0))
    return head(now, source=source, missing=missing) | {"step_s": step_s, "series": found, "open_from": open_from}


def _point(at: int, step_s: int, place: int, now: datetime) -> list[float]:
    noise = random.Random(at * 31 + place).uniform(0.9, 1.1)
    wave = 1 + 0.25 * math.sin(at / (step_s * 11) + place) + 0.1 * math.sin(at / (step_s * 4))
    part = min(1.0, max(0.0, (now.timestamp() - at) / step_s))
    count = int(900 * step_s / (1 + place * 0.8) * wave * noise * part)
    return [at, count, count * 16_400]


def top(now: datetime, fields: Mapping[str, str], *, missing: tuple[int, ...] = ()) -> dict[str, Any]:
    """Return falling counts of the values of a dimension."""
    values = VALUES[fields["dimension"]][: int(fields.get("n", 20))]
    counts = [int(52_000 / (1 + place * 0.45)) for place in range(len(values))]
    total = sum(counts) + 11_234
    rows = [
        {"key": value, "count": count, "sum_price": count * 16_400, "share": count / total}
        for value, count in zip(values, counts, strict=True)
    ]
    return head(now, missing=missing) | {
        "rows": rows,
        "others": {"count": 11_234, "sum_price": 11_234 * 16_400},
        "total": {"count": total, "sum_price": total * 16_400},
    }


def event(now: datetime, number: int, *, action: str, cookie: str, **fields: Any) -> dict[str, Any]:
    """Return an event of a profile."""
    at = now - timedelta(seconds=37 * number + 5)
    product = {
        "product_id": 12_000 + number,
        "brand_id": VALUES["brand_id"][number % 9],
        "category_id": VALUES["category_id"][number % 9],
        "price": 997 + 313 * (number % 29),
    }
    return {
        "time": f"{at:%Y-%m-%dT%H:%M:%S}.{number % 1000:03}Z",
        "cookie": cookie,
        "country": "PL",
        "device": "MOBILE" if number % 3 else "PC",
        "action": action,
        "origin": VALUES["origin"][number % 5],
        "product_info": product,
        **fields,
    }


def user(now: datetime, fields: Mapping[str, str], *, missing: tuple[int, ...] = ()) -> dict[str, Any]:
    """Return 12 views and 3 buys; nothing for a user whose name begins with `nobody`."""
    cookie = fields["cookie"]
    known = not cookie.startswith("nobody")
    views = [event(now, number, action="VIEW", cookie=cookie) for number in range(12)] if known else []
    buys = [event(now, 4 * number + 2, action="BUY", cookie=cookie) for number in range(3)] if known else []
    return head(now, missing=missing) | {"views": views, "buys": buys}


def dead_letters(now: datetime, fields: Mapping[str, str]) -> dict[str, Any]:
    """Return three groups and the newest of each."""
    kinds = [("schema", 14, "product_info.price: input should be a valid integer"), ("not_json", 7, "not one JSON document")]
    kinds += [("time", 2, "time: not of the form YYYY-MM-DDTHH:MM:SS[.f]Z")]
    kinds = [kind for kind in kinds if fields.get("reason") in (None, kind[0])]
    groups = [
        {
            "reason": reason,
            "stage": "count",
            "count": count,
            "first_at": text_of(now - timedelta(minutes=50 + 7 * place)),
            "last_at": text_of(now - timedelta(minutes=3 + 9 * place)),
        }
        for place, (reason, count, _) in enumerate(kinds)
    ]
    samples = [
        {
            "topic": "user-tags.v1",
            "partition": place % PARTITIONS,
            "offset": 884_201 - 97 * place,
            "reason": reason,
            "detail": detail,
            "at": text_of(now - timedelta(minutes=3 + 4 * place)),
        }
        for place, (reason, _, detail) in enumerate(kinds)
    ]
    return head(now, source="postgres") | {"groups": groups, "samples": samples}


def where(now: datetime, fields: Mapping[str, str]) -> dict[str, Any]:
    """Return the way of a counted event."""
    steps = [
        {"where": "kafka", "found": True, "text": "user-tags.v1, partition 1, offset 884201, arrived 2 min ago"},
        {"where": "worker", "found": True, "text": "counted in the minute 07:12, bucket 215"},
        {"where": "postgres", "found": True, "text": "one row of user_events"},
        {"where": "dead_letters", "found": False, "text": "no dead letter of this position"},
    ]
    sentence = "The event is counted in the minute 07:12 and shown in the user’s profile."
    return head(now) | {"verdict": "counted", "sentence": sentence, "steps": steps}


def utc_now() -> datetime:
    """Return this second."""
    return datetime.now(UTC).replace(microsecond=0)
