"""Say what became of each event of a body, and which status that makes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from gateway.answers import RETRY_AFTER, Headers
from gateway.events_decoding import Refused, Warned
from gateway.lanes import Refusal

Word = Literal["ok", "duplicate", "warning", "drop", "retry"]
QUEUED = "queued"
"""Counted, never answered: `ok` is a promise."""
OK = b'":{"result":"ok"}'
RETRY_DETAILS = {
    "not_acknowledged": "kafka did not acknowledge in time; send it again, it will count once",
    "too_many_waiting": "too many events wait for kafka; send it again",
}
RETRY_DETAIL = "kafka does not acknowledge at present; send it again, it will count once"
DUPLICATE_DETAIL = "an event of this user and id was acknowledged before, or stands in the body before; the first one counts"


class Result(msgspec.Struct, omit_defaults=True, frozen=True):
    """What became of one event.

    Attributes:
        code, detail: why, unless it is `ok`.
    """

    result: Word
    code: str | None = None
    detail: str | None = None


STORED = Result("ok")
DUPLICATE = Result("duplicate", None, DUPLICATE_DETAIL)


def retry_result(refusal: Refusal) -> Result:
    """Return what is said of an event that Kafka did not acknowledge."""
    return Result("retry", refusal.code, retry_detail(refusal))


def retry_detail(refusal: Refusal) -> str:
    """Return why to send again, in words that hold for events with ids."""
    return RETRY_DETAILS.get(refusal.code, RETRY_DETAIL)


@dataclass(slots=True)
class Results:
    """What became of the events of a body; those that are `ok` apart, since nearly all are.

    Attributes:
        stored: names of events that Kafka has acknowledged.
        others: by name, in no order.
        queued: how many events nobody waits for.
        refusal: why the latest event that is not known to be stored is not, where there is one.
    """

    stored: list[str] = field(default_factory=list)
    others: dict[str, Result] = field(default_factory=dict)
    queued: int = 0
    refusal: Refusal | None = None

    def warn(self, name: str, warned: Warned) -> None:
        """Say of a stored event that it was changed."""
        self.others[name] = Result("warning", warned.code, warned.detail)

    def retry(self, name: str, refusal: Refusal) -> None:
        """Say of an event that it is not known to be stored."""
        self.refusal = refusal
        self.others[name] = retry_result(refusal)

    def drop_all(self, refused: Sequence[Refused], failures: Mapping[int, Refusal]) -> None:
        """Say of events that they are refused for good; of those at *failures*, whose dead letters are not stored, to retry."""
        if not refused:
            return
        taken = {*self.stored, *self.others}
        for index, each in enumerate(refused):
            name = f"[{each.position}]" if each.name in taken else each.name
            taken.add(name)
            if index in failures:
                self.retry(name, failures[index])
            else:
                self.others[name] = Result("drop", each.code, each.detail)

    def counts(self) -> Counter[str]:
        """Return how many events have each result."""
        counts = Counter[str](result.result for result in self.others.values())
        counts["ok"] += len(self.stored)
        counts[QUEUED] += self.queued
        return +counts

    def status(self) -> int:
        """Return 200 when an event was taken, 202 when events wait to be; else why none was: 503 where coming again helps, 422.

        One that came before counts as taken, too.
        """
        if self.queued:
            return 202
        words = {result.result for result in self.others.values()}
        if self.stored or words & {"ok", "warning", "duplicate"}:
            return 200
        return 503 if "retry" in words else 422

    def headers(self) -> Headers:
        """Return `Retry-After` when an event is to be sent again, and only then."""
        return [RETRY_AFTER] if self.refusal is not None else []

    def body(self, request_id: str, error: tuple[str, str] | None = None) -> bytes:
        """Return the JSON of the answer; *error* says what is wrong with the whole of it.

        >>> Results(["a"], {"b": DUPLICATE}).body("r")[:72]
        b'{"request_id":"r","results":{"a":{"result":"ok"},"b":{"result":"duplicat'
        """
        head = {"request_id": request_id}
        if error is not None:
            said = {"error": {"code": error[0], "message": error[1]}}
            return msgspec.json.encode(said | head | {"results": self.others})
        parts = [] if not self.stored else [b'"' + (OK + b',"').join(_encoded(self.stored)) + OK]
        if self.others:
            parts.append(msgspec.json.encode(self.others)[1:-1])
        return msgspec.json.encode(head)[:-1] + b',"results":{' + b",".join(parts) + b"}}"


def _encoded(names: Iterable[str]) -> list[bytes]:
    """Return ids as bytes; a UUID has nothing that JSON would escape."""
    return "\n".join(names).encode().split(b"\n")
