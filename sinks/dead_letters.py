"""Write dead letters into Postgres, and put what Postgres refuses among the dead letters of Kafka.

The identity of a dead letter is the position of the record it was made of, so writing it again changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import psycopg
from kafka import KafkaProducer
from kafka.errors import KafkaError, MessageSizeTooLargeError

from sinks.queries import query
from sinks.submissions import Submission, read_submission, say_failed
from sinks.writers import STAGE, DeadLetter, Pending, Place, Record, Written
from streams.clock import Clock
from streams.dead_letters import BOUNDARY_KEY
from streams.errors import KafkaUnavailableError, Reason
from streams.kafka_access import access
from streams.settings import Kafka
from streams.topics import DEAD_LETTERS, Stream

TABLE = "dead_letters"
TEXT_HEADERS = ("reason", "detail", "topic", "stage")
NUMBER_HEADERS = ("partition", "offset")
OWN_HEADERS = frozenset((*TEXT_HEADERS, *NUMBER_HEADERS))
INT32_MAX, INT64_MAX = (1 << 31) - 1, (1 << 63) - 1
TOPIC_LENGTH_MAX = 249
"""Of any topic of Kafka; a text of some thousands would be too long for the primary key, and stop the sinks."""
ACKNOWLEDGE_TIMEOUT_S = 10.0
REQUEST_TIMEOUT_MS = 5_000
ENVELOPE_BYTES_MAX = 65_536
"""What key, headers and framing of a dead letter may add to its value."""


class Letter(NamedTuple):
    """One row of the table, in the order of the statement's arrays."""

    topics: str
    partitions: int
    offsets: int
    reasons: str
    details: str
    stages: str
    keys: bytes | None
    values: bytes | None
    headers: str
    times_ms: int


class DeadLetterWriter:
    """The sink of the dead letters; those of submissions are FAILED in the transaction log too."""

    topic = DEAD_LETTERS

    def __init__(self, clock: Clock, logged: Stream | None = None) -> None:
        """Describe the sink; *logged* is the stream whose submissions have a log."""
        self._clock = clock
        self._logged = "" if logged is None else logged.topic
        self._add = query("add_dead_letters")

    def accept(self, record: Record) -> Pending | None:
        """Return any record as a dead letter: one without a position of its own has that of the dead letter."""
        if record.key == BOUNDARY_KEY:
            return None
        at_ms = record.timestamp if 0 <= record.timestamp <= self._clock.now_ms() else self._clock.now_ms()
        return Pending(Place(record.topic, record.partition), record.offset, 1, read_letter(record, at_ms=at_ms))

    def prepare(self, connection: psycopg.Connection, pending: Sequence[Pending]) -> None:
        """Do nothing: the table has no partitions."""

    def write(self, cursor: psycopg.Cursor, pending: Sequence[Pending], *, isolate: bool) -> Written:
        """Insert those that are not there; *isolate* finds nothing, since every text has been cleaned."""
        written = Written()
        letters = [item.content for item in pending]
        if letters:
            columns = zip(*letters, strict=True)
            cursor.execute(self._add, {name: list(column) for name, column in zip(Letter._fields, columns, strict=True)})
            written.counts[TABLE, "written"] = cursor.rowcount
            say_failed(cursor, failed_among(letters, topic=self._logged))
        return written


def failed_among(letters: Sequence[Letter], *, topic: str) -> Iterator[tuple[Submission, int, str]]:
    """Yield the submissions of a topic that are dead letters, when, and why."""
    for letter in letters:
        if topic and letter.topics == topic:
            found = read_submission(letter.values, partition=letter.partitions, offset=letter.offsets)
            if found is not None:
                yield found, letter.times_ms, f"{letter.reasons}: {letter.details}"


def read_letter(record: Record, *, at_ms: int) -> Letter:
    """Return the row of a dead letter; whatever a header holds, there is one."""
    texts = {name: _clean(value) for name, value in record.headers if name in OWN_HEADERS}
    partition, offset = (_number(texts.get(name)) for name in NUMBER_HEADERS)
    place = (texts.get("topic", ""), partition, offset)
    if not 0 < len(place[0]) <= TOPIC_LENGTH_MAX or not 0 <= partition <= INT32_MAX or not 0 <= offset <= INT64_MAX:
        place = (record.topic, record.partition, record.offset)
    others = [[_clean(name.encode()), _clean(value)] for name, value in record.headers if name not in OWN_HEADERS]
    texts.setdefault("reason", Reason.BUG)
    reason, detail, stage = (texts.get(name, "") for name in ("reason", "detail", "stage"))
    return Letter(*place, reason, detail, stage, record.key, record.value, json.dumps(others, ensure_ascii=False), at_ms)


def _clean(raw: bytes | None) -> str:
    """Return text that Postgres takes: bytes that are no UTF-8, and NUL, become U+FFFD."""
    return (raw or b"").decode("utf-8", errors="replace").replace("\0", "\ufffd")


def _number(text: str | None) -> int:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 20 else -1


class DeadLetterProducer:
    """Puts dead letters into Kafka; connects when the first one comes."""

    def __init__(self, kafka: Kafka, *, record_bytes_max: int) -> None:
        """Describe the producer; nothing happens before `send`.

        Args:
            record_bytes_max: a longer value is left out of its dead letter: the topic would refuse it for good.
        """
        self._kafka = kafka
        self._record_bytes_max = record_bytes_max
        self._producer: Any = None

    def send(self, letters: Sequence[DeadLetter]) -> None:
        """Return when Kafka has all of *letters*. A second call puts them there twice, under the same identity.

        Raises:
            KafkaUnavailableError: not acknowledged in time; some may be there.
        """
        try:
            producer = self._connect()
            futures = [producer.send(DEAD_LETTERS, **self._fields(letter)) for letter in letters]
            for letter, future in zip(letters, futures, strict=True):
                self._finish(producer, letter, future)
        except KafkaError as error:
            raise KafkaUnavailableError(f"kafka did not acknowledge {len(letters)} dead letters: {error}") from error

    def close(self) -> None:
        """Let go of the connection."""
        if self._producer is not None:
            self._producer.close(timeout=ACKNOWLEDGE_TIMEOUT_S)

    def _finish(self, producer: Any, letter: DeadLetter, future: Any) -> None:
        try:
            future.get(timeout=ACKNOWLEDGE_TIMEOUT_S)
        except MessageSizeTooLargeError:  # The topic takes less than we were told; without the value it takes it.
            future = producer.send(DEAD_LETTERS, **self._fields(letter, bytes_max=0))
            future.get(timeout=ACKNOWLEDGE_TIMEOUT_S)

    def _connect(self) -> Any:
        if self._producer is None:
            self._producer = KafkaProducer(
                bootstrap_servers=self._kafka.servers.split(","),
                **access(self._kafka),
                acks="all",
                client_id="tally-sinks",
                max_request_size=self._record_bytes_max + ENVELOPE_BYTES_MAX,
                request_timeout_ms=REQUEST_TIMEOUT_MS,
                bootstrap_timeout_ms=REQUEST_TIMEOUT_MS,
                delivery_timeout_ms=int(ACKNOWLEDGE_TIMEOUT_S * 1000),
                max_block_ms=int(ACKNOWLEDGE_TIMEOUT_S * 1000),
                allow_auto_create_topics=False,
            )
        return self._producer

    def _fields(self, letter: DeadLetter, *, bytes_max: int | None = None) -> dict[str, Any]:
        value, detail = letter.value, letter.detail
        size = len(value or b"")
        if size > (self._record_bytes_max if bytes_max is None else bytes_max):
            value, detail = None, f"{detail} (value of {size} bytes left out)"
        if value is None and letter.key is None:
            value = b""  # kafka-python sends no record that has neither.
        texts = {
            "reason": letter.reason,
            "detail": detail,
            "topic": letter.topic,
            "partition": str(letter.partition),
            "offset": str(letter.offset),
            "stage": STAGE,
        }
        return {"key": letter.key, "value": value, "headers": [(name, text.encode()) for name, text in texts.items()]}
