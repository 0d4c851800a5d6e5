"""What a case of contract.yaml may expect, one function a word: each takes what happened and what is to be found."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

from tally_client.outcomes import Outcome

from tests.client.recording import Seen

KINDS = {
    "UUID": r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
    "UUID7": r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}",
    "RFC3339": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z",
}
"""Kinds of text; any other word stands for itself, as a regular expression."""


@dataclass
class Run:
    """What happened in a case: requests, outcomes, and the ids that were captured, in order (None where refused)."""

    seen: Sequence[Seen]
    outcomes: Sequence[Outcome]
    captured: Sequence[str | None]

    @property
    def events(self) -> list[dict[str, Any]]:
        return [event for seen in self.seen for event in seen.batch]


def requests(run: Run, count: int) -> None:
    assert len(run.seen) == count


def path(run: Run, wanted: str) -> None:
    assert {seen.path for seen in run.seen} == {wanted}


def last_path(run: Run, wanted: str) -> None:
    assert run.seen[-1].path == wanted


def no_path(run: Run, unwanted: list[str]) -> None:
    assert run.seen and not {seen.path for seen in run.seen} & set(unwanted)


def authorization(run: Run, wanted: str) -> None:
    assert [seen.headers.get("authorization") for seen in run.seen] == [wanted] * len(run.seen) != []


def header(run: Run, wanted: dict[str, str]) -> None:
    for name, kind in wanted.items():
        assert run.seen and all(is_of(kind, seen.headers.get(name)) for seen in run.seen)


def no_header(run: Run, names: list[str]) -> None:
    assert run.seen and not [seen for seen in run.seen for name in names if name in seen.headers]


def attempts(run: Run, wanted: list[int]) -> None:
    assert [seen.headers["x-attempt"] for seen in run.seen] == [str(each) for each in wanted]


def body_fields(run: Run, wanted: list[str]) -> None:
    assert run.seen and all(list(seen.document) == wanted and seen.batch for seen in run.seen)


def not_in_body(run: Run, texts: list[str]) -> None:
    assert run.seen and not [text for seen in run.seen for text in texts if text.encode() in seen.raw]


def body_bytes_max(run: Run, most: int) -> None:
    assert max(len(seen.raw) for seen in run.seen) <= most


def batch_sizes(run: Run, wanted: list[int]) -> None:
    assert [len(seen.batch) for seen in run.seen] == wanted


def event_fields(run: Run, wanted: list[str]) -> None:
    assert run.events and all(set(wanted) <= set(event) for event in run.events)


def every(run: Run, wanted: dict[str, str]) -> None:
    for name, kind in wanted.items():
        assert run.events and all(is_of(kind, event[name]) for event in run.events)


def properties(run: Run, wanted: list[dict[str, Any]]) -> None:
    assert [event["properties"] for event in run.events] == wanted


def not_in_properties(run: Run, names: list[str]) -> None:
    assert run.events and not [event for event in run.events for name in names if name in event["properties"]]


def ids_unique(run: Run, count: int) -> None:
    assert len({event["id"] for event in run.events}) == count
    assert all(len(set(seen.ids)) == len(seen.ids) for seen in run.seen)


def same_on_retry(run: Run, names: str) -> None:
    for name in names.split():
        (first, *others) = [[event[name] for event in seen.batch] for seen in run.seen]
        assert others and all(other == first for other in others)


def request_ids(run: Run, count: int) -> None:
    assert len({seen.headers["x-request-id"] for seen in run.seen}) == count


def sent_at_rises(run: Run, wanted: bool) -> None:
    assert wanted and all(
        one < two for one, two in pairwise(datetime.fromisoformat(seen.headers["x-sent-at"]) for seen in run.seen)
    )


def last_batch(run: Run, positions: list[int]) -> None:
    assert run.seen[-1].ids == [run.captured[position] for position in positions]


def delays_s_min(run: Run, wanted: list[float]) -> None:
    delays_s = [two.at_s - one.at_s for one, two in pairwise(run.seen)]
    assert len(delays_s) == len(wanted) and all(delay_s >= least_s for delay_s, least_s in zip(delays_s, wanted, strict=True))


def delivered(run: Run, count: int) -> None:
    assert sum(outcome.delivered for outcome in run.outcomes) == count


def failed(run: Run, wanted: dict[str, int]) -> None:
    assert Counter(outcome.code for outcome in run.outcomes if not outcome.delivered) == wanted


def told(run: Run, wanted: list[list[str]]) -> None:
    assert [[outcome.result, outcome.code] for outcome in run.outcomes] == wanted


def results(run: Run, wanted: list[str]) -> None:
    (seen,) = run.seen
    assert [(seen.answer["results"][event_id]["result"]) for event_id in seen.ids] == wanted


def retry_after(run: Run, wanted: list[bool]) -> None:
    assert ["Retry-After" in seen.answer["headers"] for seen in run.seen] == wanted


def echoes_request_id(run: Run, wanted: bool) -> None:
    assert wanted and all(seen.answer["headers"]["X-Request-Id"] == seen.headers["x-request-id"] for seen in run.seen)


def is_of(kind: str, value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(KINDS.get(kind, kind), value) is not None


CHECKS: dict[str, Callable[[Run, Any], None]] = {
    check.__name__: check
    for check in (
        requests,
        path,
        last_path,
        no_path,
        authorization,
        header,
        no_header,
        attempts,
        body_fields,
        not_in_body,
        body_bytes_max,
        batch_sizes,
        event_fields,
        every,
        properties,
        not_in_properties,
        ids_unique,
        same_on_retry,
        request_ids,
        sent_at_rises,
        last_batch,
        delays_s_min,
        delivered,
        failed,
        told,
        results,
        retry_after,
        echoes_request_id,
    )
}
