"""End a worker that lives but does not count: its consumer, its place in the group or its loop can die without it.

It watches from a thread and over a connection of its own, because what it watches may hang. Time counts only while Kafka
answers: without Kafka no worker gets on, and a restart would cost the answers that this one can still give.
"""

from __future__ import annotations

import logging
import math
import sys
import threading
import traceback
import warnings
from asyncio import AbstractEventLoop
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

with warnings.catch_warnings():
    # kafka-python reads its own schemas by a deprecated call, once, while it is imported.
    warnings.simplefilter("ignore", DeprecationWarning)
    from kafka.admin import KafkaAdminClient, OffsetSpec
    from kafka.errors import KafkaError
    from kafka.protocol.consumer.offsets import IsolationLevel
    from kafka.structs import TopicPartition

from agents.guard import end_process
from agents.protocol import CountingProtocol
from streams.errors import StalledError
from streams.kafka_access import access
from streams.topics import APP_ID, BUCKET_OFFSETS

log = logging.getLogger(__name__)

LOOKS_A_TIMEOUT = 12
"""A stall is seen late by at most this part of its timeout."""
ASK_TIMEOUT_MS = 5_000
STUCK_S = 30.0
"""After so long without a turn of the loop the log says where it is: the process may have to be ended, which tells nothing."""
FRAMES_MAX = 12
Place = tuple[str, int]
"""Source topic and partition."""
CHATTY = ("aiokafka", "kafka")
"""These log every failed try to connect as an error; the watchdog says once when an outage begins, and when it ends."""


@dataclass(frozen=True)
class Inside:
    """What a worker says of itself, taken on its own loop.

    Attributes:
        ready: recovered, and no rebalance under way.
        recovered: records read back so far; grows during a recovery.
        member: name by which the group knows it, empty while it joins.
        reached: of each source partition that it owns, the offset before which everything is acknowledged.
    """

    ready: bool
    recovered: int
    member: str
    reached: Mapping[Place, int]


@dataclass(frozen=True)
class Outside:
    """What Kafka says of it.

    Attributes:
        members: names of the group's members.
        ends: of each source partition, the offset after the last committed record.
        committed: of each source partition, the offset that the group has committed.
    """

    members: frozenset[str]
    ends: Mapping[Place, int]
    committed: Mapping[Place, int]


def waits(inside: Inside, outside: Outside) -> dict[str, int]:
    """Return what should move, each with a number that changes when it does; nothing for a worker that is idle and well."""
    if not inside.ready:
        return {"it is not ready": inside.recovered}
    found = {}
    if inside.member not in outside.members:
        found["its group does not know it"] = 0
    for place, reached in inside.reached.items():
        topic, partition = place
        if reached < outside.ends.get(place, 0):
            found[f"partition {partition} of {topic} is not read on from offset {reached}"] = reached
        committed = outside.committed.get(place, 0)
        if committed < reached // BUCKET_OFFSETS * BUCKET_OFFSETS:
            found[f"the commit of partition {partition} of {topic} stays at offset {committed}"] = committed
    return found


class Wait(NamedTuple):
    """Something that should move: its number, and since when it has not changed (seconds, monotonic)."""

    number: int
    since_s: float


class Stalls:
    """For how long each thing has not moved that should."""

    def __init__(self) -> None:
        self._waits: dict[str, Wait] = {}

    def update(self, found: Mapping[str, int], now_s: float) -> None:
        """Take what should move now; what is new, or has moved, begins anew."""
        known = self._waits
        self._waits = {
            what: known[what] if what in known and known[what].number == number else Wait(number, now_s)
            for what, number in found.items()
        }

    def longest(self, now_s: float) -> tuple[float, str]:
        """Return the longest wait, seconds, and what it is for; 0 where nothing waits."""
        return max(((now_s - wait.since_s, what) for what, wait in self._waits.items()), default=(0.0, ""))


class Watchdog:
    """Watches one worker from its own thread.

    Attributes:
        ends: of each source partition, the offset after the last committed record, as Kafka last said; for whoever shows the
            lag.
    """

    def __init__(self, app: Any, protocols: Sequence[CountingProtocol]) -> None:
        self._app = app
        self._protocol = protocols[0]  # what is asked of it is one for all: consumer, settings, metrics, clock
        self._clock = self._protocol.clock
        self._topics = [protocol.tables.stream.topic for protocol in protocols]
        self._timeout_s = self._protocol.settings.worker.stall_timeout_s
        self.ends: Mapping[Place, int] = {}
        self._admin: Any = None
        self._stalls = Stalls()
        self._silent_since_s: float | None = None

    def start(self, loop: AbstractEventLoop) -> None:
        """Begin to watch the worker that runs on *loop*; the thread ends with the process."""
        threading.Thread(target=self._watch, args=(loop,), name="watchdog", daemon=True).start()

    def _watch(self, loop: AbstractEventLoop) -> None:
        interval_s = self._timeout_s / LOOKS_A_TIMEOUT
        pause = threading.Event()
        unanswered = 0
        while not loop.is_closed():
            pause.wait(interval_s)
            inside = self._ask_inside(loop, interval_s)
            # Counted in looks, not in time: a process that was paused has missed none.
            unanswered = 0 if inside else unanswered + 1
            if unanswered == math.ceil(STUCK_S / interval_s):
                self._tell_where(unanswered * interval_s)
            if unanswered > LOOKS_A_TIMEOUT:
                end_process(StalledError(f"its event loop has not answered for {self._timeout_s:.0f} s"))
            if inside:
                self._judge(inside)

    def _judge(self, inside: Inside) -> None:
        """End the process when something has not moved for too long."""
        try:
            outside = self._ask_outside()
        except KafkaError as error:
            self._note_outage(error)
            self._disconnect()
            self._stalls.update({}, self._clock.monotonic_s())
            return
        self.ends = outside.ends
        self._protocol.metrics.dependency_up.labels("kafka").set(1)
        now_s = self._clock.monotonic_s()
        if self._silent_since_s is not None:
            log.warning("kafka is back after %.0f s", now_s - self._silent_since_s)
            self._silent_since_s = None
        self._stalls.update(waits(inside, outside), now_s)
        stalled_s, what = self._stalls.longest(now_s)
        if stalled_s > self._timeout_s:
            end_process(StalledError(f"{what}, for {stalled_s:.0f} s, although kafka answers"))

    def _note_outage(self, error: KafkaError) -> None:
        """Say once that an outage begins: the clients would say so many times a second."""
        self._protocol.metrics.dependency_up.labels("kafka").set(0)
        if self._silent_since_s is None:
            self._silent_since_s = self._clock.monotonic_s()
            log.warning("kafka does not answer (%r): counting waits, queries are answered from the tables", error)

    def _tell_where(self, stuck_s: float) -> None:
        """Count that the loop is stuck, and log where: file, line and function of its innermost calls."""
        self._protocol.metrics.loop_stuck.inc()
        frame = sys._current_frames().get(threading.main_thread().ident or 0)
        calls = reversed(traceback.extract_stack(frame)[-FRAMES_MAX:])
        where = " < ".join(f"{call.filename}:{call.lineno} {call.name}" for call in calls)
        log.warning("the event loop has not turned for %.0f s; it is at %s", stuck_s, where)

    # -- what the worker says

    def _ask_inside(self, loop: AbstractEventLoop, timeout_s: float) -> Inside | None:
        answers: list[Inside] = []
        answered = threading.Event()

        def answer() -> None:
            answers.append(self._look_inside())
            answered.set()

        try:
            loop.call_soon_threadsafe(answer)
        except RuntimeError:  # it was closed this moment: the process ends
            return None
        answered.wait(timeout_s)
        return answers[0] if answers else None

    def _look_inside(self) -> Inside:
        tables, consumer = self._app.tables, self._protocol.consumer
        return Inside(
            ready=tables.actives_ready and not self._app.rebalancing,
            recovered=sum(tables.recovery.active_offsets.values()),
            member=consumer.member(),
            reached={(tp.topic, tp.partition): self._reached(tp) for tp in consumer.owned()},
        )

    def _reached(self, tp: Any) -> int:
        acknowledged, seek = self._protocol.consumer.acknowledged(tp), self._protocol.consumer.seeks.get(tp)
        if acknowledged is not None:
            return int(acknowledged)
        return seek.position if seek else 0

    # -- what kafka says

    def _ask_outside(self) -> Outside:
        if self._admin is None:
            kafka = self._protocol.settings.kafka
            servers = kafka.servers.split(",")
            self._admin = KafkaAdminClient(bootstrap_servers=servers, request_timeout_ms=ASK_TIMEOUT_MS, **access(kafka))
        numbers = range(self._protocol.settings.topics.partitions)
        partitions = [TopicPartition(topic, number) for topic in self._topics for number in numbers]
        ends = self._admin.list_partition_offsets(
            dict.fromkeys(partitions, OffsetSpec.LATEST),
            isolation_level=IsolationLevel.READ_COMMITTED,
            timeout_ms=ASK_TIMEOUT_MS,
        )
        offsets = self._admin.list_group_offsets([APP_ID])[APP_ID]
        group = self._admin.describe_groups([APP_ID])[APP_ID]
        return Outside(
            members=frozenset(member["member_id"] for member in group["members"]),
            ends={(tp.topic, tp.partition): end.offset for tp, end in ends.items()},
            committed={(tp.topic, tp.partition): offset.offset for tp, offset in offsets.items() if tp.topic in self._topics},
        )

    def _disconnect(self) -> None:
        if self._admin is not None:
            self._admin.close()
            self._admin = None


def create_watchdog(app: Any, protocols: Sequence[CountingProtocol]) -> Watchdog:
    """Watch this worker from the moment its loop runs, before recovery, until the process ends; a stop may hang too."""
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    watchdog = Watchdog(app, protocols)
    app.on_loop.append(watchdog.start)
    return watchdog
