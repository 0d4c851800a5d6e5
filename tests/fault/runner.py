"""Run one case from an empty folder to its result, and leave nothing behind but the folder of one that is not exact."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from kafka import KafkaConsumer, TopicPartition

from stack.progress import Say
from streams.topics import USER_TAGS
from tests.fault.case import Case, nothing
from tests.fault.checks import (
    EXAMPLES_MAX,
    handles_do_not_pile_up,
    longest_silence_s,
    longest_stall_s,
    memory_does_not_pile_up,
    problems_of,
    recover_s,
)
from tests.fault.evidence import Evidence, Held, Sample
from tests.fault.gather import gather
from tests.fault.ledger import Outcome
from tests.fault.processes import look, told
from tests.fault.stage import Stage

SENT_WITHIN_S = 1_200.0
TAIL_S = 1.5
"""The load goes on for so long after the heal: what comes now must be taken like what came before."""
QUIET_S = 1.0
CRASHED = "crashed"
"""The case could not be run to its end, for a reason that it does not assert."""
FAILED = "failed"
POLL_S = 0.25
SETTLED_WITHIN_S = 15.0
"""Connections of those that were cut off, or have ended, are closed by then."""


@dataclass
class Result:
    """One row of the table.

    Attributes:
        problems: what each check found; `failed` and `crashed` hold what ended the case early.
        tries: 2 for one that was run again, because its first try ended early.
        home: its folder, kept when something is wrong.
    """

    case: Case
    events: int = 0
    acknowledged: int = 0
    unknown: int = 0
    replayed: int = 0
    stall_s: float = 0.0
    silence_s: float = 0.0
    recover_s: float | None = None
    took_s: float = 0.0
    problems: Mapping[str, Sequence[str]] = field(default_factory=dict)
    home: Path | None = None
    tries: int = 1

    @property
    def is_exact(self) -> bool:
        return not self.problems

    @property
    def shows_nothing(self) -> bool:
        """Whether the case ended before anything was compared, and not by what it asserts itself."""
        return set(self.problems) == {CRASHED}

    def told(self) -> Iterator[str]:
        """Yield a line for each problem, as many of a check as anybody reads."""
        for name, problems in self.problems.items():
            yield from (f"{name}: {problem}" for problem in problems[:EXAMPLES_MAX])
            if len(problems) > EXAMPLES_MAX:
                yield f"{name}: and {len(problems) - EXAMPLES_MAX} more"


def run_case(case: Case, *, seed: int, is_long: bool, say: Say, keep: bool = False) -> Result:
    """Run a case on a stage of its own; what goes wrong is in the result.

    Args:
        seed: of the events and of the fault's schedule.
        keep: leave the folder of an exact case too.
    """
    started_s = time.monotonic()
    home = Path(tempfile.mkdtemp(prefix=f"tally-faults-{case.id.lower()}-"))

    def tell(line: str) -> None:
        say(f"{case.id:>4} {time.monotonic() - started_s:6.1f} s  {line}")

    stage = Stage(home, case.system, seed=seed, is_long=is_long, say=tell)
    result = Result(case, home=home)
    try:
        _run_and_close(case, stage, result)
    except AssertionError as error:
        result.problems = {**result.problems, FAILED: [str(error)]}
    except Exception as error:  # noqa: BLE001 - a case that cannot be run is one that is not exact; the next one can
        result.problems = {**result.problems, CRASHED: [f"{type(error).__name__}: {error}"]}
    except BaseException:
        stage.remove()
        raise
    if result.is_exact and not keep:
        stage.remove()
    else:
        stage.postgres.remove()
    result.took_s = time.monotonic() - started_s
    tell("exact" if result.is_exact else f"NOT EXACT, see {home}")
    for line in result.told():
        tell(line)
    return result


def _run_and_close(case: Case, stage: Stage, result: Result) -> None:
    try:
        _run(case, stage, result)
    finally:
        stage.close()


def _run(case: Case, stage: Stage, result: Result) -> None:
    workload = case.workload
    events, rate = (workload.events_long, workload.rate_long) if stage.is_long else (workload.events, workload.rate)
    case.prepare(stage)
    stage.start(events=workload.before + events)
    stage.load.burst(workload.before)
    drain(stage, within_s=case.recover_within_s)
    warm = look(stage)
    stage.say(f"ready, {workload.before} events counted, sending {rate} a second")
    stage.load.run_on(rate, http_share=workload.http_share)
    try:
        case.inject(stage)
        stage.load.wait_sent(events, within_s=SENT_WITHIN_S)
    finally:
        if case.heal is not nothing:
            stage.mark("heal")
            case.heal(stage)
    stage.sleep(TAIL_S)
    stage.load.finish()
    problems = _compare(case, stage, result, warm)
    if case.afterwards is not None:
        case.afterwards(stage)
        again = _compare(case, stage, result, warm)
        problems |= {f"{name} afterwards": found for name, found in again.items() if name not in problems}
    result.problems = problems


def _compare(case: Case, stage: Stage, result: Result, warm: list[Held]) -> dict[str, list[str]]:
    """Wait until everything is counted, compare all of it, and return what the checks found."""
    not_drained = drain(stage, within_s=case.recover_within_s)
    stage.observer.read_metrics()
    settled = settle(stage, warm)
    stage.say("comparing")
    evidence = gather(stage, allowed_errors=case.allowed_errors, not_drained=not_drained)
    evidence.warm, evidence.settled = warm, settled
    result.events = len(evidence.ledger)
    result.acknowledged = sum(entry.outcome is Outcome.ACKNOWLEDGED for entry in evidence.ledger)
    result.unknown = sum(entry.outcome is Outcome.UNKNOWN for entry in evidence.ledger)
    result.replayed = evidence.replayed
    result.stall_s, result.silence_s = longest_stall_s(evidence), longest_silence_s(evidence)
    result.recover_s = recover_s(evidence)
    return problems_of(evidence, case.checks)


def settle(stage: Stage, warm: list[Held]) -> list[Held]:
    """Return what each process holds as soon as it is no more than allowed, or after `SETTLED_WITHIN_S`."""
    deadline_s = time.monotonic() + SETTLED_WITHIN_S
    while True:
        evidence = Evidence(warm=warm, settled=look(stage))
        if time.monotonic() > deadline_s or not problems_of(evidence, (handles_do_not_pile_up, memory_does_not_pile_up)):
            break
        time.sleep(POLL_S)
    before = {(held.name, held.pid): held for held in warm}
    for held in evidence.settled:
        if (held.name, held.pid) in before:
            stage.say(told(before[held.name, held.pid], held))
    return evidence.settled


def drain(stage: Stage, *, within_s: float) -> str:
    """Wait until HTTP and Postgres show as many events as the topic has; return what is missing, empty when nothing is.

    Whether they are the right ones is for the checks. More than there should be ends the wait too.
    """
    deadline_s = time.monotonic() + within_s
    with closing(KafkaConsumer(bootstrap_servers=stage.kafka.servers)) as consumer:
        partitions = [TopicPartition(USER_TAGS.topic, number) for number in range(stage.system.partitions)]
        expected, quiet_since_s, missing = -1, deadline_s, "the topic does not come to rest"
        while time.monotonic() < deadline_s:
            records = sum(consumer.end_offsets(partitions).values())
            if records != expected:
                expected, quiet_since_s = records, time.monotonic()
            elif time.monotonic() - quiet_since_s >= QUIET_S:
                missing = _missing(stage, stage.observer.look(), expected - len(stage.ledger.expected_dead))
                if not missing:
                    return ""
            time.sleep(POLL_S)
    return f"{within_s:.0f} s after the load ended {missing}"


def _missing(stage: Stage, sample: Sample, expected: int) -> str:
    counted = None if sample.counts is None else sum(sample.counts.values())
    if counted is None or counted < expected - stage.ledger.elsewhere:
        return f"http shows {counted} of {expected} events"
    if sample.stored is None or sample.stored < expected:
        return f"postgres holds {sample.stored} of {expected} events"
    with psycopg.connect(stage.postgres.dsn) as connection:
        dead = connection.execute("SELECT count(*) FROM tally.dead_letters").fetchone()
    if dead is None or dead[0] < len(stage.ledger.expected_dead):
        return f"postgres holds {dead} of {len(stage.ledger.expected_dead)} dead letters"
    return ""
