"""Forget which sessions were those of erased users: tombstones in `sessions.v1`, which gateways follow, and compaction.

Killed at any moment, the next run does the rest; tombstones that come twice change nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from time import sleep

import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from agents.erase_topics import COMPACTED_WITHIN_S, COMPACTING, PAUSE_S, Topics
from streams.clock import SYSTEM_CLOCK
from streams.errors import KafkaUnavailableError
from streams.kafka_access import access
from streams.reading import Reader
from streams.settings import Settings
from streams.topics import SESSIONS

SEND_TIME_S_MAX = 60.0
Keys = Mapping[int, Collection[bytes]]
"""Keys of records by partition."""


class Whose(msgspec.Struct):
    """What is looked at of a record's value."""

    user: str


class ErasedSessions:
    """The sessions of some users in Kafka."""

    def __init__(self, settings: Settings, reader: Reader, users: Collection[str]) -> None:
        self._settings = settings
        self._reader = reader
        self._users = set(users)

    def find(self) -> Keys:
        """Return the keys of the records that name one of the users, older ones of a session included."""
        found: dict[int, set[bytes]] = {}
        for partition, record in self._reader.topic_records(SESSIONS, self._reader.bounds(SESSIONS)):
            if self._names_user(record.value):
                found.setdefault(partition, set()).add(record.key)
        return found

    def erase(self, topics: Topics) -> int:
        """Have them forgotten; return how many sessions there were.

        Raises:
            KafkaUnavailableError: not all was done; run it again.
        """
        found = self.find()
        if not found and not topics.is_altered(SESSIONS):
            return 0
        with topics.altered(SESSIONS, COMPACTING):
            until_s = SYSTEM_CLOCK.monotonic_s() + COMPACTED_WITHIN_S
            while left := self.find():
                if SYSTEM_CLOCK.monotonic_s() > until_s:
                    raise KafkaUnavailableError(f"{SESSIONS!r} is not compacted after {COMPACTED_WITHIN_S:.0f} s; run it again")
                asyncio.run(self._write_tombstones(left))  # again and again: each closes the segment of the one before
                sleep(PAUSE_S)
        return sum(map(len, found.values()))

    def _names_user(self, value: bytes | None) -> bool:
        try:
            return value is not None and msgspec.json.decode(value, type=Whose).user in self._users
        except msgspec.DecodeError:  # somebody else's
            return False

    async def _write_tombstones(self, keys: Keys) -> None:
        kafka = self._settings.kafka
        producer = AIOKafkaProducer(bootstrap_servers=kafka.servers, **access(kafka), acks="all", enable_idempotence=True)
        try:
            async with asyncio.timeout(SEND_TIME_S_MAX):
                await producer.start()
                for partition, each in keys.items():
                    for key in each:
                        await producer.send(SESSIONS, key=key, value=None, partition=partition)
                await producer.flush()
        except (KafkaError, OSError, TimeoutError) as error:
            raise KafkaUnavailableError(f"kafka takes no tombstones of sessions: {error!r}") from error
        finally:
            await producer.stop()
