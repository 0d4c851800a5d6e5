"""Send submissions without pause while things are killed: by HTTP and straight into Kafka, many again, both ways."""

from __future__ import annotations

import asyncio
import json
import random
from collections import deque
from collections.abc import Callable
from contextlib import closing
from threading import Event, Thread
from typing import Any
from uuid import UUID

from aiokafka import AIOKafkaProducer

from streams.event_time import format_instant
from streams.topics import EVENTS
from tests.support.builders import a_submission, record_bytes
from tests.support.job import Door

USERS = 400
PRODUCTS = ("MOBILE_IOS", "WEB", "API")
KEYS = tuple(f"key-{number}" for number in range(6))
BAD = 0.005
"""Share of what goes straight into Kafka that cannot be counted; some of it was, or will be, sent as it should be."""
AGAIN = 0.35
"""Share of what is sent that was sent before, by whichever way."""
LATEST = 2_000
"""Submissions that may be sent again: some before their first attempt is answered, some minutes after it."""
TURN_S = 0.05
TURN_SUBMISSIONS = 10
ANSWERED_WITHIN_S = 90.0
TAKEN = {"ok", "duplicate", "warning"}
Submission = dict[str, Any]


class SubmissionStream:
    """Two threads that send, one by HTTP and one straight into Kafka, until they are told to stop.

    A submission that the gateway does not say to be stored is sent again, with its id, until it does.

    Attributes:
        acknowledged: (user, id) of what the gateway or Kafka has said to be stored.
        asked_again: how often the gateway did not say of a submission that it is stored.
    """

    def __init__(self, servers: str, gateway_port: int, *, seed: int, minute_ms: int, minutes: int) -> None:
        self._servers = servers
        self._port = gateway_port
        self._from_ms, self._minutes = minute_ms, minutes
        self._seed = seed
        self._stop = Event()
        self._natives: deque[Submission] = deque(maxlen=LATEST)
        self._transactions: deque[Submission] = deque(maxlen=LATEST)
        self._failures: list[BaseException] = []
        self._threads = [Thread(target=self._run, args=(work,)) for work in (self._post, self._produce)]
        self.acknowledged: set[tuple[str, str]] = set()
        self.asked_again = 0

    def start(self) -> None:
        """Begin to send."""
        for thread in self._threads:
            thread.start()

    def finish(self) -> None:
        """Send nothing new, and return when everything is acknowledged.

        Raises:
            BaseException: whatever ended a thread.
        """
        self._stop.set()
        for thread in self._threads:
            thread.join(ANSWERED_WITHIN_S)
            assert not thread.is_alive(), "not everything was acknowledged"
        for failure in self._failures:
            raise failure

    def _run(self, work: Callable[[random.Random], None]) -> None:
        try:
            work(random.Random(f"{self._seed} {work.__name__}"))
        except BaseException as failure:  # noqa: BLE001 - raised by `finish`
            self._failures.append(failure)

    def _post(self, chance: random.Random) -> None:
        waiting: dict[str, Submission] = {}
        with closing(Door(self._port)) as door:
            while not self._stop.wait(TURN_S) or waiting:
                if not self._stop.is_set() and len(waiting) < TURN_SUBMISSIONS:
                    chosen = [self._again(chance, self._natives) or self._a_native(chance) for _ in range(TURN_SUBMISSIONS)]
                    waiting |= {event["id"]: event for event in chosen}
                for id_ in self._ask(door, list(waiting.values())):
                    event = waiting.pop(id_)
                    self.acknowledged.add((event["user"], id_))

    def _ask(self, door: Door, events: list[Submission]) -> set[str]:
        """Post events and return the ids of those that are stored."""
        body = json.dumps({"batch": [as_posted(event) for event in events]}).encode()
        answer = door.ask("POST", "/v1/events", body, {"Content-Type": "application/json"})
        assert answer.status in (200, 503), answer
        results = answer.json.get("results", {})
        taken = {id_ for id_, result in results.items() if result["result"] in TAKEN}
        assert {result["result"] for result in results.values()} <= TAKEN | {"retry"}, answer
        self.asked_again += len(events) - len(taken)
        return taken

    def _produce(self, chance: random.Random) -> None:
        asyncio.run(self._send_records(chance))

    async def _send_records(self, chance: random.Random) -> None:
        timeout_ms = int(ANSWERED_WITHIN_S * 1000)
        producer = AIOKafkaProducer(
            bootstrap_servers=self._servers, acks="all", enable_idempotence=True, request_timeout_ms=timeout_ms
        )
        await producer.start()
        sent: list[tuple[tuple[str, str], asyncio.Future[Any]]] = []
        try:
            while not self._stop.is_set():
                await asyncio.sleep(TURN_S)
                for _ in range(TURN_SUBMISSIONS):
                    key, event = self._a_record(chance)
                    stored = await producer.send(EVENTS.topic, record_bytes(event), key=key.encode())
                    sent.append(((event["user"], event["id"]), stored))
            for submission, stored in sent:
                await stored
                self.acknowledged.add(submission)
        finally:
            await producer.stop()

    def _a_record(self, chance: random.Random) -> tuple[str, Submission]:
        """Return key and value of a record: a native event under its user, or a transaction under its product."""
        if chance.random() < 0.5:
            event = self._again(chance, self._natives) or self._a_native(chance)
            key = event["user"]
        else:
            event = self._again(chance, self._transactions) or self._a_transaction(chance)
            key = event["product"]
        return key, event | {"time": "yesterday"} if chance.random() < BAD else event

    def _again(self, chance: random.Random, sent: deque[Submission]) -> Submission | None:
        """Return one that was sent before, now and then; what it holds need not be what it held then."""
        if not sent or chance.random() >= AGAIN:
            return None
        event = sent[chance.randrange(len(sent))]
        return event if chance.random() < 0.5 else event | {"time": self._a_time(chance)}

    def _a_native(self, chance: random.Random) -> Submission:
        event = self._a_submission(chance, (chance.choice(KEYS),), kind="EVENT")
        event["data"][0]["value"] = ""
        self._natives.append(event)
        return event

    def _a_transaction(self, chance: random.Random) -> Submission:
        event = self._a_submission(chance, chance.choices(KEYS, k=chance.randrange(5)), kind="TRANSACTION")
        if chance.random() < 0.1:
            event["user"] = ""
        self._transactions.append(event)
        return event

    def _a_submission(self, chance: random.Random, keys: tuple[str, ...] | list[str], *, kind: str) -> Submission:
        id_ = str(UUID(int=chance.getrandbits(128), version=4))
        user, product = f"user-{chance.randrange(USERS)}", chance.choice(PRODUCTS)
        return a_submission(*keys, kind=kind, id=id_, user=user, product=product, time=self._a_time(chance))

    def _a_time(self, chance: random.Random) -> str:
        return format_instant(self._from_ms + chance.randrange(self._minutes * 60_000))


def as_posted(event: Submission) -> dict[str, Any]:
    """Return a native event as `/v1/events` takes it."""
    fields = {name: event[name] for name in ("id", "time", "product")}
    return {**fields, "user_id": event["user"], "type": event["data"][0]["key"]}
