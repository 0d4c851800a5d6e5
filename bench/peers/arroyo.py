"""Minute aggregates by Sentry's arroyo: events reduced to a dict by the batch, whose cells go to a topic; then the commit.

It keeps no state: a reader adds up what the batches say. At least once. Batches end as Snuba's do, by size or time.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import orjson  # type: ignore[import-not-found]
from arroyo.backends.kafka import (  # type: ignore[import-not-found]
    KafkaConsumer,
    KafkaPayload,
    build_kafka_consumer_configuration,
)
from arroyo.processing import StreamProcessor  # type: ignore[import-not-found]
from arroyo.processing.strategies import CommitOffsets, ProcessingStrategyFactory, Reduce, RunTask  # type: ignore[import-not-found]
from arroyo.types import BaseValue, Commit, Message, Partition, Topic  # type: ignore[import-not-found]
from confluent_kafka import Consumer, Producer, TopicPartition  # type: ignore[import-not-found]
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[import-not-found]

from bench.peers.report import Report, await_end

BATCH_EVENTS = 10_000
BATCH_S = 1.0
OUTPUT = "arroyo-cells"
READ_TIMEOUT_S = 10.0
MINUTE_CHARACTERS = len("2022-03-01T00:00")
Cells = dict[str, list[int]]


class Counting(ProcessingStrategyFactory[KafkaPayload]):
    """Makes the steps of the work."""

    def __init__(self, report: Report, producer: Producer) -> None:
        self._report = report
        self._producer = producer

    def create_with_partitions(self, commit: Commit, partitions: Mapping[Partition, int]) -> Reduce[KafkaPayload, Cells]:
        """Return them: reduce, send, commit."""
        send = RunTask(self._send, CommitOffsets(commit))
        return Reduce(BATCH_EVENTS, BATCH_S, self._add, dict, send)

    def _add(self, cells: Cells, record: BaseValue[KafkaPayload]) -> Cells:
        tag = orjson.loads(record.payload.value)
        product = tag["product_info"]
        dimensions = (tag["action"], tag["origin"], product["brand_id"], product["category_id"])
        key = "|".join((tag["time"][:MINUTE_CHARACTERS], *dimensions))
        cell = cells.get(key)
        if cell is None:
            cells[key] = [1, product["price"]]
        else:
            cell[0] += 1
            cell[1] += product["price"]
        self._report.counted += 1
        return cells

    def _send(self, batch: Message[Cells]) -> None:
        self._producer.produce(OUTPUT, orjson.dumps(batch.payload), on_delivery=refuse_failure)
        self._producer.flush()


def refuse_failure(error: Any, record: Any) -> None:
    """Stop the program where a batch was not written: its offsets must not be committed."""
    if error is not None:
        raise RuntimeError(f"{OUTPUT} was not written: {error}")


def main() -> None:
    """Count until standard input ends, and report what the topic of results holds then."""
    servers = os.environ["PEER_SERVERS"]
    report = Report(Path(os.environ["PEER_HOME"]))
    report.keep_telling()
    admin = AdminClient({"bootstrap.servers": servers})
    for created in admin.create_topics([NewTopic(OUTPUT, 1, 1)]).values():
        created.result()
    producer = Producer({"bootstrap.servers": servers, "enable.idempotence": True, "compression.type": "lz4"})
    settings = build_kafka_consumer_configuration({}, "arroyo", "earliest", bootstrap_servers=[servers])
    processor = StreamProcessor(KafkaConsumer(settings), Topic(os.environ["PEER_TOPIC"]), Counting(report, producer))
    threading.Thread(target=stop_at_end, args=(processor,), daemon=True).start()
    processor.run()
    add_all(servers, report)
    report.write_totals()


def stop_at_end(processor: StreamProcessor[KafkaPayload]) -> None:
    """Stop the program in order, last batch included, when standard input ends."""
    await_end()
    processor.signal_shutdown()


def add_all(servers: str, report: Report) -> None:
    """Report every cell of every batch that was written."""
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "arroyo-check"})
    consumer.assign([TopicPartition(OUTPUT, 0, 0)])
    _, end = consumer.get_watermark_offsets(TopicPartition(OUTPUT, 0))
    for record in iter(partial(consumer.poll, READ_TIMEOUT_S), None):
        for key, (count, total) in orjson.loads(record.value()).items():
            report.add(key, count, total)
        if record.offset() + 1 == end:
            break
    consumer.close()


if __name__ == "__main__":
    main()
