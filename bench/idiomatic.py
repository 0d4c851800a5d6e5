"""The same minute aggregates as an idiomatic Faust program: an agent, a RocksDB table, one write an event. The baseline."""

from __future__ import annotations

import os

import faust

app = faust.App(
    "idiomatic",
    broker=f"kafka://{os.environ['BENCH_KAFKA_SERVERS']}",
    store="rocksdb://",
    datadir=os.environ["BENCH_DATA"],
    topic_partitions=4,
    table_standby_replicas=0,
    web_port=int(os.environ["BENCH_WEB_PORT"]),
    web_host="127.0.0.1",
    consumer_auto_offset_reset="earliest",
)
tags = app.topic("user-tags.v1", value_serializer="json", key_serializer="raw")
cells = app.Table("cells", default=list, partitions=4)
counted = 0


@app.agent(tags)
async def count(stream: faust.StreamT) -> None:
    """Add every event to the cell of its minute and dimensions."""
    global counted  # noqa: PLW0603 - a figure for the page below
    async for tag in stream:
        product = tag["product_info"]
        key = "|".join((tag["time"][:16], tag["action"], tag["origin"], product["brand_id"], product["category_id"]))
        number, total = cells[key] or (0, 0)
        cells[key] = [number + 1, total + product["price"]]
        counted += 1


@app.page("/counted")
async def show_counted(self: faust.web.View, request: faust.web.Request) -> faust.web.Response:
    """Say how many events have been counted."""
    return self.json({"counted": counted})


@app.page("/totals")
async def show_totals(self: faust.web.View, request: faust.web.Request) -> faust.web.Response:
    """Say what all cells add up to."""
    values = list(cells.values())
    return self.json({"count": sum(number for number, _ in values), "price_sum": sum(total for _, total in values)})
