"""Answer "why is my event missing?" for the page: what `make where` finds, in a verdict, a sentence and four steps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import closing
from typing import Any

from streams.dead_letters import Position
from streams.errors import IncompleteAnswerError, KafkaUnavailableError
from streams.reading import Reader
from streams.search import Search
from streams.settings import Settings
from streams.topics import Stream
from streams.whereabouts import State
from views.queries import EventAt, EventOf

RECORDS_MAX = 20_000
"""Dead letters and waiting records of a partition that are looked at: the thread shares the processor with counting."""
WAITING_MAX = 4
VERDICTS = {
    State.IN_POSTGRES: "counted",
    State.COUNTED: "counted",
    State.DUPLICATE: "counted",
    State.WAITING: "pending",
    State.UNDECIDED: "pending",
    State.DEAD_LETTER: "dead_letter",
    State.REPLAYED: "dead_letter",
    State.NEVER_WRITTEN: "not_received",
    State.NO_EVENT: "not_received",
    State.FORGOTTEN: "unknown",
    State.UNPROVEN: "unknown",
    State.MISSING: "unknown",
}
WORST_FIRST = ("dead_letter", "unknown", "pending", "not_received", "counted")
NOBODY = (
    "nobody knows of such an event: it was not received, its time differs by a millisecond or more, or it is older than what "
    "is kept. Ask by partition and offset if the producer has them"
)
NOT_IN_LOG = {State.NEVER_WRITTEN, State.NO_EVENT, State.FORGOTTEN}
Found = dict[str, Any]


class Whereabouts:
    """Looks for one event at a time, in a thread."""

    def __init__(self, settings: Settings, own_url: Callable[[], str]) -> None:
        self._settings = settings
        self._own_url = own_url
        self._turn = asyncio.Semaphore(1)
        self._waiting = 0

    async def find(self, stream: Stream, query: EventAt | EventOf, *, time: str) -> Found:
        """Return where the event of a stream is; *time* as the question had it.

        Raises:
            IncompleteAnswerError: Kafka or the workers do not answer, or too many ask.
        """
        if self._waiting >= WAITING_MAX:
            raise IncompleteAnswerError("others are looking for events: try again in a moment")
        self._waiting += 1
        try:
            async with self._turn:
                return await asyncio.to_thread(self._search, stream, query, time)
        except KafkaUnavailableError as error:
            raise IncompleteAnswerError("kafka does not answer") from error
        finally:
            self._waiting -= 1

    def _search(self, stream: Stream, query: EventAt | EventOf, time: str) -> Found:
        with closing(Reader(self._settings.kafka)) as reader:
            made = Search(stream, self._settings, reader, url=self._own_url(), records_max=RECORDS_MAX)
            with closing(made) as search:
                if isinstance(query, EventAt):
                    return tell(search.at(Position(stream.topic, query.partition, query.offset)))
                return tell_all([tell(found) for found in search.of(query.user, time)])


def tell(found: Found) -> Found:
    """Return verdict, sentence and steps out of what a search says of one position."""
    state = State(found["state"])
    return {
        "verdict": VERDICTS[state],
        "sentence": found["says"],
        "source": found["source"],
        "minute": found["minute"],
        "steps": [
            _step("kafka", state not in NOT_IN_LOG, _of_kafka(state, found["kafka"])),
            _step("worker", found["worker"]["state"] == "counted" and state not in NOT_IN_LOG, _of_worker(found["worker"])),
            _step("postgres", _is_written(found["postgres"]), _of_postgres(found["postgres"])),
            _step("dead_letters", *_of_letters(state, found["says"])),
        ],
    }


def tell_all(found: list[Found]) -> Found:
    """Return one answer for all events of a user and instant: the worst verdict first, and each by itself."""
    if not found:
        return {"verdict": "not_received", "sentence": NOBODY, "steps": [], "events": []}
    worst = min(found, key=lambda each: WORST_FIRST.index(each["verdict"]))
    sentence = worst["sentence"]
    if len(found) > 1:
        counts = {verdict: sum(each["verdict"] == verdict for each in found) for verdict in WORST_FIRST}
        kinds = ", ".join(f"{count} {verdict.replace('_', ' ')}" for verdict, count in counts.items() if count)
        sentence = f"{len(found)} events of that user and instant: {kinds}. {worst['source']}: {sentence}"
    return {"verdict": worst["verdict"], "sentence": sentence, "steps": worst["steps"], "events": found}


def _step(where: str, found: bool, text: str) -> Found:
    return {"where": where, "found": found, "text": text}


def _of_kafka(state: State, bounds: Found) -> str:
    held = f"the partition holds offsets {bounds['first']} to {bounds['end'] - 1}"
    if state is State.NO_EVENT:
        return f"no event has this offset; {held}"
    return f"not in the log; {held}" if state in NOT_IN_LOG else f"received; {held}"


def _of_worker(worker: Found) -> str:
    lag = "" if worker["lag"] is None else f", {worker['lag']} records behind"
    return f"everything before offset {worker['counted']} is counted{lag}"


def _is_written(postgres: Found | str) -> bool:
    return not isinstance(postgres, str) and bool(postgres["block"] or postgres["row"])


def _of_postgres(postgres: Found | str) -> str:
    if isinstance(postgres, str):
        return "not asked: this worker knows no postgres, or it does not answer"
    has = [name for name in ("row", "block") if postgres[name]]
    lag = "" if postgres["lag"] is None else f"; the sinks are {postgres['lag']} records behind"
    return f"{'has its ' + ' and its '.join(has) if has else 'has nothing of it'}{lag}"


def _of_letters(state: State, says: str) -> tuple[bool, str]:
    is_letter = state in (State.DEAD_LETTER, State.REPLAYED)
    return is_letter, says if is_letter else "no dead letter was made of it"
