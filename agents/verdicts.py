"""Judge dead letters: which may be sent into their source topic once more without being counted twice, or refused again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from streams.clock import Clock
from streams.codecs import Codec
from streams.dead_letters import COUNT_STAGE, GATEWAY_STAGE, DeadLetter, Position
from streams.errors import InvalidEventError
from streams.topics import Stream


class Verdict(StrEnum):
    """What a replay does with a dead letter; only the first is sent without being asked for, the second when asked for."""

    PASSES = "passes"
    """It decodes now and was not counted: it is sent."""
    UNPROVEN = "unproven"
    """It decodes now, but nothing proves any more that it was not counted meanwhile."""
    REPLAYED = "replayed"
    """It was sent before."""
    FAILS = "fails"
    """It would be a dead letter again."""
    COUNTED = "counted"
    """It was read again by code that takes it, from an open bucket, and counted."""
    OPEN_BUCKET = "open_bucket"
    """The workers read it again at their next start, and count it if it decodes then."""
    NOT_A_SOURCE_RECORD = "not_a_source_record"
    """It was counted by the worker, or is a changelog record: only Postgres lacks it. Or it never was in a topic."""


class Judgment(NamedTuple):
    """A verdict and why, without the payload."""

    verdict: Verdict
    why: str


AskEvent = Callable[[Stream, str, str], Mapping[str, Any]]
"""Ask a worker where the events of a stream's user and event time are: its answer to `GET /event`."""


@dataclass(frozen=True, slots=True)
class Court:
    """What verdicts rest on.

    Attributes:
        codecs: by source topic.
        committed: by source partition, for each source topic: before it, nothing is read again.
        ask: what the workers have counted.
        horizon_s: for how long they can tell.
    """

    codecs: Mapping[str, Codec]
    committed: Mapping[str, Mapping[int, int]]
    ask: AskEvent
    clock: Clock
    horizon_s: float

    def judge(self, letter: DeadLetter, marks: Mapping[Position, Position]) -> Judgment:
        """Return what is to be done with a dead letter.

        Raises:
            IncompleteAnswerError: no worker answers.
        """
        codec = self.codecs.get(letter.source.topic)
        if codec is None or letter.stage != COUNT_STAGE:
            why = f"put aside by {letter.stage!r}: mend Postgres and fill it anew (docs/operations.md), do not send it again"
            if letter.stage == GATEWAY_STAGE:
                why = "dropped at the door, which told its producer: mend that, and let it send the event anew"
            return Judgment(Verdict.NOT_A_SOURCE_RECORD, why)
        if letter.source in marks:
            return Judgment(Verdict.REPLAYED, f"lies at {marks[letter.source]}")
        try:
            event, _ = codec.decode(letter.value)
        except InvalidEventError as error:
            return Judgment(Verdict.FAILS, str(error))
        return self._judge_counted(letter, self.ask(codec.stream, codec.key_of(event), codec.time_of(event)))

    def _judge_counted(self, letter: DeadLetter, answer: Mapping[str, Any]) -> Judgment:
        """Say whether the record was counted under its own position, by what the workers have stored."""
        source = letter.source
        if any((found["partition"], found["offset"]) == source[1:] for found in answer["events"]):
            return Judgment(Verdict.COUNTED, "it was read again after the fix and counted under its own offset")
        if source.offset >= self.committed[source.topic].get(source.partition, 0):
            return Judgment(Verdict.OPEN_BUCKET, "its bucket is open: the workers' next start reads it again")
        asked = any(place["partition"] == source.partition for place in answer["partitions"])
        is_young = self.clock.now_ms() - letter.at_ms < self.horizon_s * 1000
        if asked and is_young and answer["complete"]:
            return Judgment(Verdict.PASSES, "")
        return Judgment(
            Verdict.UNPROVEN,
            "older than worker.horizon_s, or behind 200 newer events of its user, so a worker cannot tell that it was not "
            "counted meanwhile; look with `make where`, and add --unproven to send it",
        )
