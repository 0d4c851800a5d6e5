"""Run one schedule: a seed decides what happens next, everything heals, and what was counted is compared with the source.

The scheduler is the only source of chance. While faults are on, each step lets one thing happen: callbacks of one process
run, a batch is appended, an acknowledgment arrives, a sink does a round, a process is killed, paused, woken or started. At
the end of the faults everything is woken and started, and runs until nothing is left to do, or for too long.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from random import Random

from agents.protocol import CountingProtocol
from sinks.loop import SinkLoop
from streams.topics import BUCKET_OFFSETS, DEAD_LETTERS
from tests.simulation.checks import Watch, best_of
from tests.simulation.events import PARTITIONS
from tests.simulation.group import Group
from tests.simulation.kafka import Kafka, Log
from tests.simulation.loop import VirtualClock
from tests.simulation.postgres import Tables
from tests.simulation.sinks import PLACES, Sink
from tests.simulation.subjects import TAGS, Subject
from tests.simulation.workers import Worker

STEPS_MIN, STEPS_MAX = 50, 210
"""Steps with faults."""
RECORDS_MIN, RECORDS_MAX = 4, 11
"""Records of the source, each partition."""
QUIET_ROUNDS_MAX = 300
"""Rounds until everything must be counted: more mean that something never ends."""
CALLBACKS_MAX = 16
"""Callbacks of one process between two things that others do; small numbers come more often."""
QUIET_CALLBACKS_MAX = 500
QUIET_FETCH_RECORDS_MAX = 100
NESTED_MAX = 2
STEP_S = 0.01


class ScheduleFailedError(Exception):
    """Something that must hold did not."""


def whole(key: bytes) -> bytes:
    """Return what compaction compares: the key."""
    return key


class World:
    """All processes of one schedule, and the seed that moves them.

    Attributes:
        problems: what did not hold; the first one ends the schedule.
        lasts: offset of each partition's last record, which is produced after the faults: a batch that got lost before the
            agent had it is missed when the next one comes (Faust loses one only where a seek follows).
        steps: steps done so far.
        quiet: the faults are over: nothing goes wrong or on by itself any more.
    """

    def __init__(
        self,
        seed: int,
        *,
        steps: int | None = None,
        protocol_class: type[CountingProtocol] = CountingProtocol,
        sink_class: type[SinkLoop] = SinkLoop,
        compacted_by: Callable[[bytes], bytes] = whole,
        forgets: bool = False,
        subject: Subject = TAGS,
    ) -> None:
        rng = self.rng = Random(seed)
        self.subject = subject
        self.clock = VirtualClock()
        self.protocol_class, self.sink_class, self.compacted_by = protocol_class, sink_class, compacted_by
        self.problems: list[str] = []
        self.trace: Callable[[str], None] | None = None
        self.digest = 0
        self.steps = 0
        self.quiet = False
        chosen = rng.randrange(STEPS_MIN, STEPS_MAX)
        self.steps_max = chosen if steps is None else min(steps, chosen)
        source = [subject.some_records(rng, p, rng.randrange(RECORDS_MIN, RECORDS_MAX)) for p in range(PARTITIONS)]
        self.kafka = Kafka(source, self.clock.now_ms, (subject.blocks, subject.rows, DEAD_LETTERS))
        self.lasts = [records[-1].offset for records in source]
        self.kafka.visible = [offset // 3 if rng.random() < 0.5 else offset for offset in self.lasts]
        self.group = Group(rng)
        self.kill_share, self.break_share = rng.choice((0.05, 0.4, 0.7)), rng.choice((0.02, 0.04, 0.08))
        self.watch = Watch(self)
        self.kafka.appended, self.group.took = self.watch.appended, self.watch.committed
        self.forgets = rng.random() < 0.25 or forgets
        self._number = 0
        self._nested = 0
        self.tables = Tables(self.report)
        self.workers = [Worker(number, self) for number in range(rng.choice((1, 2, 2, 2, 3)))]
        sinks = rng.choice((1, 1, 2)) if subject.has_sinks else 0
        self.sinks = [Sink(number, self) for number in range(sinks)]
        self.places = PLACES if subject.has_sinks else []
        self._set_faults(rng.choice((0.0, 0.02, 0.1)))

    def _set_faults(self, share: float) -> None:
        for worker in self.workers:
            worker.faults = share
            if worker.alive:
                worker.consumer.faults = share
                worker.consumer.fetch_records_max = QUIET_FETCH_RECORDS_MAX
        for sink in self.sinks:
            sink.faults = share / 2

    # -- what processes use

    def next_number(self) -> int:
        """Return a number that no other producer has."""
        self._number += 1
        return self._number

    def report(self, problem: str) -> None:
        """Note that something does not hold."""
        self.problems.append(problem)
        self.note(f"PROBLEM {problem}")

    def note(self, what: str) -> None:
        """Remember what happened, for the comparison of two runs and for a replay's log."""
        self.digest = zlib.crc32(what.encode(), self.digest)
        if self.trace is not None:
            self.trace(f"{self.steps:5d} {what}")

    def run_others(self, sink: Sink) -> None:
        """Let others run while a sink waits for I/O."""
        if self._nested >= NESTED_MAX:
            return
        self._nested += 1
        while self.rng.random() < 0.5:
            self.step()
        if self.rng.random() < 0.02:
            for _ in range(self.rng.randrange(30)):  # as long as a pause
                self.step()
        self._nested -= 1

    # -- the schedule

    def run(self) -> None:
        """Run the whole schedule.

        Raises:
            ScheduleFailedError: the first thing that did not hold.
        """
        try:
            self._run()
        finally:
            self._take_apart()

    def _take_apart(self) -> None:
        """Break the circles of references: the garbage collector would take a fifth of the time to find them."""
        for worker in self.workers:
            worker.loop.kill()
            worker.forget()
            worker.__dict__.clear()
        for sink in self.sinks:
            sink.__dict__.clear()
        del self.kafka, self.group, self.watch, self.tables

    def _run(self) -> None:
        for worker in self.workers:
            worker.start()
        for sink in self.sinks:
            sink.start()
        while self.steps < self.steps_max:
            self.step()
            self._raise_problem()
        self._heal()
        for _ in range(QUIET_ROUNDS_MAX):
            self._quiet_round()
            self._raise_problem()
            if self._is_done():
                break
        else:
            raise ScheduleFailedError(f"not counted after {QUIET_ROUNDS_MAX} quiet rounds: {self._progress()}")
        self.subject.check(self)
        for partition in range(PARTITIONS):
            self._compact(self.kafka.logs[self.subject.blocks, partition])
        self._raise_problem()

    def _raise_problem(self) -> None:
        if self.problems:
            raise ScheduleFailedError(self.problems[0])

    def step(self) -> None:
        """Let one thing happen."""
        if self.quiet:
            return
        self.steps += 1
        self.clock.now_s += STEP_S
        draw = self.rng.random()
        running = [worker for worker in self.workers if worker.alive and not worker.paused]
        if draw < 0.66 and running:
            self._run_worker(self.rng.choice(running))
        elif draw < 0.84:
            self._run_kafka()
        elif draw < 1 - self.break_share:
            self._run_sink()
        else:
            self._break_something()

    def _run_worker(self, worker: Worker) -> None:
        """Run a few callbacks of a worker, or let it begin something."""
        loop, rng = worker.loop, self.rng
        loop.fire_timers()
        if not loop.ready or rng.random() < 0.3:
            worker.act(rng.random(), idly=rng.random() < 0.1)
        loop.run(1 + int(rng.random() * rng.random() * CALLBACKS_MAX))
        if loop.errors:
            self.report(f"a callback of worker {worker.number} raised {loop.errors[0]!r}")

    def _run_kafka(self) -> None:
        """Append a batch, let an acknowledgment arrive, produce, or complete a rebalance."""
        kafka, rng = self.kafka, self.rng
        while rng.random() < 0.7 and (links := self._moving_links()):
            kafka.append_next(rng.choice(links))
        while rng.random() < 0.7 and kafka.answers:
            kafka.answer_next(rng.choice(list(kafka.answers)))
        if self.group.may_complete():
            self.group.complete()
            self.note(f"generation {self.group.generation}: {self.group.owners}")
        partition = rng.randrange(PARTITIONS)
        kafka.visible[partition] = min(self.lasts[partition], kafka.visible[partition] + rng.randrange(3))

    def _moving_links(self) -> list[tuple[int, str, int]]:
        """Return the links whose next batch may arrive: what half of the paused workers sent still lies in their memory."""
        held = {worker.producer.number for worker in self.workers if worker.paused and worker.producer.number % 2}
        return [link for link in self.kafka.network if link[0] not in held]

    def _run_sink(self) -> None:
        sink = self.rng.choice(self.sinks) if self.sinks else None
        if sink is not None and sink.alive and not sink.busy:
            if not sink.consumer.assigned or self.rng.random() < 0.05:
                self._assign_sinks()
            sink.run_once()

    def _assign_sinks(self) -> None:
        """Give out the changelogs anew among living sinks; one that is busy learns of it at its next look."""
        sinks = [sink for sink in self.sinks if sink.alive]
        places = list(self.places)
        self.rng.shuffle(places)
        for index, sink in enumerate(sinks):
            if not sink.busy or self.rng.random() < 0.5:
                sink.consumer.assign(sorted(places[index :: len(sinks)]))

    # -- faults

    def _break_something(self) -> None:
        draw = self.rng.random()
        if draw < 0.13:
            self._compact(self.kafka.logs[self.subject.blocks, self.rng.randrange(PARTITIONS)])
        elif draw < 0.22 and self.sinks:
            self._kill_or_start_sink(self.rng.choice(self.sinks))
        elif draw < 0.4 and self.forgets:
            self._forget(self.rng.randrange(PARTITIONS))
        else:
            self._break_worker(self.rng.choice(self.workers), self.rng.random())

    def _break_worker(self, worker: Worker, draw: float) -> None:
        """Kill or pause a worker that runs; give up, wake or start one that does not."""
        if worker.alive and not worker.paused:
            if draw < self.kill_share:
                self.note(f"kill worker {worker.number}")
                worker.kill()
            elif draw < 0.9:
                self.note(f"pause worker {worker.number}")
                worker.paused = True
            elif worker.ready and worker.is_idle("stray seek"):
                self.note(f"stray seek of worker {worker.number}")
                worker.begin("stray seek", worker.consumer.perform_seek())
        elif worker.number in self.group.members and draw < 0.6:
            self.note(f"give up worker {worker.number}")
            self.group.expel(worker.number)
        elif worker.alive:
            self.note(f"wake worker {worker.number}")
            worker.paused = False
        else:
            if self.rng.random() < 0.3:
                self.note(f"wipe worker {worker.number}")
                worker.disk.clear()
            self.note(f"start worker {worker.number}")
            worker.start()

    def _forget(self, partition: int) -> None:
        """Let the source forget what the blocks say is counted: retention, as it would be after a long pause of everything."""
        limit, first = self.watch.progress[partition], self.kafka.log_start[partition]
        if limit > first:
            self.kafka.log_start[partition] = self.rng.randrange(first, limit) + 1
            self.note(f"source {partition} begins at {self.kafka.log_start[partition]}")

    def _kill_or_start_sink(self, sink: Sink) -> None:
        self.note(f"kill or start sink {sink.number}")
        if not sink.alive:
            if not sink.busy:
                sink.start()
        elif sink.busy:
            sink.doomed = True
        else:
            sink.kill()

    def _compact(self, log: Log) -> None:
        self.note(f"compact {log.topic}/{log.partition}")
        before = best_of(log.entries)
        log.compact(self.rng, self.compacted_by)
        self.watch.compacted(log, before)

    # -- heal and quiet

    def _heal(self) -> None:
        self.note("heal")
        self.quiet = True
        self._set_faults(0.0)
        self.kafka.visible = list(self.kafka.ends)
        for worker in self.workers:
            worker.paused = False
            if not worker.alive:
                worker.start()
        for sink in self.sinks:
            if not sink.alive:
                sink.start()
        self._assign_sinks()

    def _quiet_round(self) -> None:
        """Let every process do all that it can."""
        self.clock.now_s += 0.3
        for worker in self.workers:
            self._run_out(worker)
        while self.kafka.network:
            self.kafka.append_next(next(iter(self.kafka.network)))
        while self.kafka.answers:
            self.kafka.answer_next(next(iter(self.kafka.answers)))
        if self.group.may_complete():
            self.group.complete()
        if self._is_counted():
            for sink in self.sinks:
                sink.run_once()

    def _run_out(self, worker: Worker) -> None:
        if not worker.alive:
            worker.start()
        for choice in (0.95, 0.5, 0.0) if worker.is_behind() else (0.95, 0.75, 0.8):
            worker.loop.fire_timers()
            worker.act(choice, idly=False)
            worker.loop.run(QUIET_CALLBACKS_MAX)

    def _is_done(self) -> bool:
        logs = self.kafka.logs
        return self._is_counted() and all(self.tables.positions.get(place, 0) == logs[place].end for place in self.places)

    def _is_counted(self) -> bool:
        kafka = self.kafka
        if kafka.network or kafka.answers or self.group.rebalancing:
            return False
        for partition in range(PARTITIONS):
            owner = self.workers[self.group.owners[partition]]
            end = kafka.ends[partition]
            if not owner.has_counted(partition, end):
                return False
            if self.group.committed.get(partition, 0) < end // BUCKET_OFFSETS * BUCKET_OFFSETS:
                return False
        return True

    def _progress(self) -> str:
        states = [(w.number, w.ready, [(s.partition, s.next) for s in w.protocol.states.values()]) for w in self.workers]
        return f"ends {self.kafka.ends}, workers {states}, committed {self.group.committed}, postgres {self.tables.positions}"
