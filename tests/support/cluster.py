"""A Kafka of a test file's own, with Tally's topics under their fixed names, and a ledger of what was put into them."""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaProducer
from kafka import KafkaConsumer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient

from stack.kafka import LocalKafka
from stack.ports import free_port
from stack.topics import create_topics
from streams.partitioner import partition_of
from streams.settings import load_settings
from streams.topics import APP_ID, USER_TAGS
from tests.support.oracle import Oracle
from tests.support.tags import Tag
from tests.support.worker import WorkerProcess

PARTITIONS = 4
BATCH_RECORDS = 500
SOURCE = USER_TAGS.topic


class Cluster:
    """One broker and what was sent to its source topic.

    Attributes:
        ledger: the truth by partition and offset, kept by ourselves, because the topic may forget; None where an offset
            holds no event.
    """

    def __init__(self, kafka: LocalKafka, home: Path) -> None:
        self.kafka = kafka
        self.home = home
        self.ledger: defaultdict[int, list[bytes | None]] = defaultdict(list)
        self._workers: list[WorkerProcess] = []
        self._ports: dict[int, int] = {}
        self._oracle = Oracle()
        self._in_oracle: Counter[int] = Counter()

    @property
    def servers(self) -> str:
        return self.kafka.servers

    @contextmanager
    def admin(self) -> Iterator[KafkaAdminClient]:
        """An admin client, closed at the end."""
        admin = KafkaAdminClient(bootstrap_servers=self.servers)
        try:
            yield admin
        finally:
            admin.close()

    def configure(self, topic: str, **configs: object) -> None:
        """Alter configurations of a topic; `_` stands for the dot in their names."""
        values = {name.replace("_", "."): str(value) for name, value in configs.items()}
        with self.admin() as admin:
            admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs=values)])

    def log_starts(self, topic: str = SOURCE) -> dict[int, int]:
        """Return the first offset that each partition still holds."""
        return self._offsets(topic, "beginning_offsets")

    def log_ends(self, topic: str = SOURCE) -> dict[int, int]:
        """Return the offset after the last of each partition."""
        return self._offsets(topic, "end_offsets")

    def committed(self, topic: str = SOURCE) -> dict[int, int]:
        """Return what the workers' group has committed, by partition."""
        with self.admin() as admin:
            offsets = admin.list_group_offsets([APP_ID])[APP_ID]
        return {tp.partition: held.offset for tp, held in offsets.items() if tp.topic == topic}

    def _offsets(self, topic: str, method: str) -> dict[int, int]:
        consumer = KafkaConsumer(bootstrap_servers=self.servers)
        try:
            partitions = [TopicPartition(topic, number) for number in range(PARTITIONS)]
            return {tp.partition: offset for tp, offset in getattr(consumer, method)(partitions).items()}
        finally:
            consumer.close()

    def send(self, tags: Iterable[Tag], *, partition: int | None = None) -> None:
        """Append tags where murmur2 puts them, or all to one partition; returns when Kafka has acknowledged all."""
        chosen: defaultdict[int, list[Tag]] = defaultdict(list)
        for tag in tags:
            chosen[partition_of(tag.key, PARTITIONS) if partition is None else partition].append(tag)
        asyncio.run(self._send(chosen))
        for number, sent in chosen.items():
            self.ledger[number].extend(tag.value for tag in sent)

    async def _send(self, chosen: Mapping[int, list[Tag]]) -> None:
        producer = AIOKafkaProducer(bootstrap_servers=self.servers, acks="all", max_batch_size=1 << 20)
        await producer.start()
        try:
            sent = [await self._send_part(producer, tags, number) for number, tags in chosen.items()]
            await asyncio.gather(*(part for parts in sent for part in parts))
        finally:
            await producer.stop()

    async def _send_part(self, producer: AIOKafkaProducer, tags: list[Tag], partition: int) -> list[Any]:
        parts = []
        for first in range(0, len(tags), BATCH_RECORDS):
            batch = producer.create_batch()
            for tag in tags[first : first + BATCH_RECORDS]:
                assert batch.append(key=tag.key, value=tag.value, timestamp=None) is not None
            batch.close()
            parts.append(await producer.send_batch(batch, SOURCE, partition=partition))
        return parts

    @property
    def events(self) -> int:
        """How many events are in the ledger."""
        return sum(value is not None for values in self.ledger.values() for value in values)

    def oracle(self) -> Oracle:
        """Return what should be answered, from the ledger; the offset is the order of arrival."""
        for partition, values in self.ledger.items():
            for offset in range(self._in_oracle[partition], len(values)):
                value = values[offset]
                if value is not None:
                    self._oracle.add(value, offset)
            self._in_oracle[partition] = len(values)
        return self._oracle

    def correct(self, partition: int, offset: int, value: bytes | None) -> None:
        """Say what an offset really holds."""
        self.ledger[partition][offset] = value
        self._oracle, self._in_oracle = Oracle(), Counter()

    def worker(self, *, index: int = 0, app: str = "pipeline", **settings: object) -> WorkerProcess:
        """Return a worker, not started; keyword names are those of the environment without `TALLY_`."""
        environ = {f"TALLY_{name}": str(value) for name, value in settings.items()}
        port = self._ports.setdefault(index, free_port())
        worker = WorkerProcess(self.servers, self.home / "workers", index=index, app=app, settings=environ)
        worker.port = port  # as in production: a worker comes back under the address that the group knows
        worker.environ["TALLY_WEB_PORT"] = str(port - index)
        self._workers.append(worker)
        return worker

    def wipe(self, index: int = 0) -> None:
        """Remove a stopped worker's state, as a lost disk would."""
        shutil.rmtree(self.home / "workers" / f"worker-{index}")

    def close(self) -> None:
        """Kill what a failed test left running."""
        for worker in self._workers:
            worker.kill()


@contextmanager
def a_cluster(home: Path, *, topic_settings: Mapping[str, str] | None = None) -> Iterator[Cluster]:
    """Run a broker with Tally's topics; everything of it is gone at the end."""
    kafka = LocalKafka(home / "kafka")
    kafka.start()
    cluster = Cluster(kafka, home)
    try:
        create_topics(kafka.servers, load_settings({"TALLY_KAFKA_SERVERS": kafka.servers, **(topic_settings or {})}))
        yield cluster
    finally:
        cluster.close()
        kafka.kill()
        shutil.rmtree(home, ignore_errors=True)
