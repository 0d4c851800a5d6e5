"""Send dead letters back into their source topic, each once: the events and their marks in one Kafka transaction.

The order makes it exact, whenever the process is killed and however many run at once:

1. `begin` takes the one transactional id: what an earlier run left open is aborted, or, if it had begun to commit, completed;
   and an earlier run that still lives is fenced: its next commit is refused.
2. Only then are the marks read (agents/replay.py): they are all there are, and no other run can add one unnoticed.
3. `send` writes a few events and their marks in one transaction: both are there, or neither.

Workers read committed records only, so an aborted event is never counted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, ProducerFenced

from streams.dead_letters import DeadLetter, Position, encode_mark
from streams.errors import KafkaUnavailableError, TallyError
from streams.kafka_access import access
from streams.settings import Settings
from streams.topics import REPLAYS

TRANSACTIONAL_ID = "tally-replay"
TRANSACTION_TIMEOUT_MS = 15_000
"""After a kill -9 the workers wait at the open transaction until Kafka aborts it, or the next run does: not for long."""
TRANSACTION_TIME_S_MAX = 30.0
HEADERS_BYTES_MAX = 1024 * 1024


class ReplayFencedError(TallyError):
    """Another replay was started meanwhile, and has taken over."""


class Transactions:
    """Sends letters; made by `begin`."""

    def __init__(self, producer: Any) -> None:
        self._producer = producer

    async def send(self, letters: Sequence[DeadLetter]) -> dict[Position, Position]:
        """Send *letters* and their marks in one transaction; return where each lies now.

        A second call with the same letters sends them again: leave out what has a mark.

        Raises:
            ReplayFencedError: another run has taken over; none of *letters* was sent by this one.
            KafkaUnavailableError: not confirmed; the next run finds out what became of them.
        """
        try:
            async with asyncio.timeout(TRANSACTION_TIME_S_MAX):
                await self._producer.begin_transaction()
                replayed = await self._write(letters)
                await self._producer.commit_transaction()
        except ProducerFenced as error:
            raise ReplayFencedError(
                f"another replay has taken over, or this one was stuck; of the last {len(letters)} dead letters none was sent"
            ) from error
        except (KafkaError, TimeoutError) as error:
            raise KafkaUnavailableError(
                f"kafka did not confirm the last {len(letters)} dead letters: {error!r}; run it again, none is sent twice"
            ) from error
        return replayed

    async def _write(self, letters: Sequence[DeadLetter]) -> dict[Position, Position]:
        futures = [await self._send_event(letter) for letter in letters]
        replayed = {
            letter.source: letter.source._replace(offset=(await future).offset)
            for letter, future in zip(letters, futures, strict=True)
        }
        for source, position in replayed.items():
            key, value = encode_mark(source, position)
            await self._producer.send(REPLAYS, value, key=key, partition=source.partition)
        return replayed

    async def _send_event(self, letter: DeadLetter) -> asyncio.Future[Any]:
        """Send the record as it came: key, value, its own headers, into its own partition."""
        future: asyncio.Future[Any] = await self._producer.send(
            letter.source.topic,
            letter.value,
            key=letter.key,
            partition=letter.source.partition,
            headers=list(letter.headers),
        )
        return future


@asynccontextmanager
async def begin(settings: Settings) -> AsyncIterator[Transactions]:
    """Take the transactional id; when the body starts, no earlier replay can change anything any more.

    Raises:
        KafkaUnavailableError: no broker answers in time.
    """
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # What it logs as an error, we raise.
    producer = AIOKafkaProducer(
        bootstrap_servers=settings.kafka.servers,
        **access(settings.kafka),
        transactional_id=TRANSACTIONAL_ID,
        transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
        max_request_size=settings.topics.record_bytes_max + HEADERS_BYTES_MAX,
    )
    try:
        async with asyncio.timeout(TRANSACTION_TIME_S_MAX):
            await producer.start()
    except (KafkaError, OSError, TimeoutError) as error:
        await _stop(producer)
        raise KafkaUnavailableError(f"kafka at {settings.kafka.servers} takes no transaction: {error!r}") from error
    try:
        yield Transactions(producer)
    finally:
        await _stop(producer)


async def _stop(producer: Any) -> None:
    """Let go of the connection; a producer that was fenced raises once more."""
    try:
        async with asyncio.timeout(TRANSACTION_TIME_S_MAX):
            await producer.stop()
    except (KafkaError, TimeoutError) as error:
        logging.getLogger(__name__).info("the producer did not stop in order: %r", error)
