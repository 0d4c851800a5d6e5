"""Erasing users takes along which sessions were theirs: out of the topic, and out of the memory of gateways that run."""

from __future__ import annotations

import asyncio
from contextlib import closing

from aiokafka import AIOKafkaProducer

from agents.erase_sessions import ErasedSessions
from agents.erase_topics import Topics
from gateway.session_topic import SessionTopic, encode
from gateway.sessions import Session, Sessions, digest_of
from streams.clock import SYSTEM_CLOCK
from streams.reading import Reader
from streams.settings import Analytics, Kafka, Settings
from streams.topics import SESSIONS
from tests.support.gateway_process import eventually
from tests.support.oracle import read_topic

ERASED, OTHER = "erased-user-of-a-session", "another-user-of-a-session"


async def tell(servers: str, *told: tuple[bytes, str]) -> None:
    """Write whose sessions they are."""
    producer = AIOKafkaProducer(bootstrap_servers=servers, acks="all")
    await producer.start()
    for session_id, user in told:
        value = encode(Session(SYSTEM_CLOCK.now_ms(), user))
        await producer.send_and_wait(SESSIONS, key=digest_of(session_id).encode(), value=value)
    await producer.stop()


def values(servers: str) -> bytes:
    return b"\n".join(record.value or b"" for record in read_topic(servers, SESSIONS))


async def test_erased_users_sessions_are_forgotten_everywhere(kafka_servers: str, topic: str) -> None:
    """P11: a new store of users must know how to forget one; a session that changed hands names both in its older records."""
    settings = Settings(kafka=Kafka(servers=kafka_servers))
    await tell(kafka_servers, (b"1", ERASED), (b"2", OTHER), (b"3", ERASED), (b"3", OTHER), (b"4", "third"))
    sessions = Sessions(Analytics())
    following = asyncio.create_task(SessionTopic(sessions, settings).run())

    async def is_known() -> bool:
        return [await sessions.user_of(digest_of(b"%d" % number)) for number in (1, 2)] == [ERASED, OTHER]

    await eventually(is_known)
    assert await asyncio.to_thread(erase, settings) == 2
    assert ERASED.encode() not in values(kafka_servers)
    assert OTHER.encode() in values(kafka_servers)

    async def is_forgotten() -> bool:
        return not await sessions.user_of(digest_of(b"1"))

    await eventually(is_forgotten)
    assert await sessions.user_of(digest_of(b"2")) == OTHER
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    assert await asyncio.to_thread(erase, settings) == 0, "a second run finds nothing"


def erase(settings: Settings) -> int:
    with closing(Reader(settings.kafka)) as reader, closing(Topics(settings)) as topics:
        return ErasedSessions(settings, reader, [ERASED]).erase(topics)
