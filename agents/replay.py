"""List dead letters, show one, send chosen ones back into their source topic: `python -m agents.replay list|show|send`."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from agents.replay_transactions import Transactions, begin
from agents.verdicts import Court, Judgment, Verdict
from streams.asking import ask
from streams.audit import Action, audited
from streams.clock import SYSTEM_CLOCK
from streams.codecs import Codec
from streams.dead_letters import DeadLetter, Position, decode_mark, read_dead_letter
from streams.errors import Reason, SettingsError, TallyError
from streams.event_time import format_instant
from streams.reading import Reader
from streams.settings import Settings, load_settings
from streams.topics import DEAD_LETTERS, REPLAYS, STREAMS, Stream
from tables.registry import keeps_rows

FAILED = 1
BAD_SETTINGS = 2
TRANSACTION_LETTERS_MAX = 500
TRANSACTION_BYTES_MAX = 8 * 1024 * 1024
GROUPS_SHOWN_MAX = 200
VALUE_BYTES_SHOWN_MAX = 65_536
Say = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class Choice:
    """Which dead letters are meant; an empty field means all.

    Attributes:
        since_ms, until_ms: when they were put aside, [since, until).
    """

    reasons: frozenset[str] = frozenset()
    topic: str | None = None
    partition: int | None = None
    offset: int | None = None
    since_ms: int = 0
    until_ms: int | None = None

    def takes(self, letter: DeadLetter) -> bool:
        """Say whether a dead letter is meant."""
        source = letter.source
        return (
            (not self.reasons or letter.reason in self.reasons)
            and self.topic in (None, source.topic)
            and self.partition in (None, source.partition)
            and self.offset in (None, source.offset)
            and self.since_ms <= letter.at_ms
            and (self.until_ms is None or letter.at_ms < self.until_ms)
        )


class Replay:
    """The commands, on an open reader; a second run of each changes nothing."""

    def __init__(self, settings: Settings, reader: Reader, *, url: str, say: Say) -> None:
        self._settings = settings
        self._reader = reader
        self._url = url
        self._say = say

    def send_noted(self, choice: Choice, *, unproven: bool) -> None:
        """Send as `send`; that it begins, and how it ended, is noted in Postgres.

        Raises:
            AuditError: Postgres does not take the note.
            TallyError: as of `send`.
        """
        detail = asdict(choice) | {"reasons": sorted(choice.reasons), "unproven": unproven}
        with audited(self._settings, Action.REPLAY, detail) as found:
            found.update(asyncio.run(self.send(choice, unproven=unproven)))

    def letters(self, choice: Choice) -> Iterator[DeadLetter]:
        """Yield the chosen dead letters, each identity once: a redelivery may have written it again."""
        seen: set[Position] = set()
        for _, record in self._reader.topic_records(DEAD_LETTERS, self._reader.bounds(DEAD_LETTERS)):
            letter = read_dead_letter(record)
            if letter is not None and letter.source not in seen and choice.takes(letter):
                seen.add(letter.source)
                yield letter

    def marks(self) -> dict[Position, Position]:
        """Return where each dead letter that was replayed lies now.

        Raises:
            SettingsError: the topic of the marks does not exist.
        """
        bounds = self._reader.bounds(REPLAYS)
        if not bounds:
            raise SettingsError(f"topic {REPLAYS!r} does not exist; `make run` and `python -m stack services` create it")
        return dict(decode_mark(record.key, record.value) for _, record in self._reader.topic_records(REPLAYS, bounds))

    def court(self) -> Court:
        """Return the judge of what may be sent."""
        codecs = {stream.topic: Codec(stream) for stream in STREAMS}
        return Court(
            codecs=codecs,
            committed={topic: self._reader.committed(topic) for topic in codecs},
            ask=self._ask_event,
            clock=SYSTEM_CLOCK,
            horizon_s=self._settings.worker.horizon_s,
        )

    def _ask_event(self, stream: Stream, user: str, time: str) -> Mapping[str, Any]:
        if not keeps_rows(stream, self._settings):
            return {"events": [], "partitions": [], "complete": False}  # no rows that could tell
        return ask(self._url, f"{stream.path}/event", {stream.key: user, stream.time: time})

    def list_groups(self, choice: Choice) -> None:
        """Say how many there are by reason, stage and detail, and how many of them were replayed."""
        marks = self.marks()
        counts, replayed, newest_ms = Counter[tuple[str, ...]](), Counter[tuple[str, ...]](), dict[tuple[str, ...], int]()
        for letter in self.letters(choice):
            group: tuple[str, ...] = (letter.source.topic, letter.reason, letter.stage, letter.detail)
            counts[group] += 1
            replayed[group] += letter.source in marks
            newest_ms[group] = max(newest_ms.get(group, 0), letter.at_ms)
        self._say(f"{'count':>8} {'replayed':>8}  {'newest':24}  topic  reason  stage  detail")
        for group, count in counts.most_common(GROUPS_SHOWN_MAX):
            texts = "  ".join(map(printable, group))
            self._say(f"{count:8} {replayed[group]:8}  {format_instant(newest_ms[group])}  {texts}")
        more = len(counts) - GROUPS_SHOWN_MAX
        self._say(f"{counts.total()} dead letters" + (f"; {more} more groups" if more > 0 else ""))

    def show(self, source: Position) -> int:
        """Say everything about one dead letter, payload included; return the exit status."""
        choice = Choice(topic=source.topic, partition=source.partition, offset=source.offset)
        letter = next(self.letters(choice), None)
        if letter is None:
            self._say(f"no dead letter of {source} is in {DEAD_LETTERS}; older ones may be in the table tally.dead_letters")
            return FAILED
        replayed = self.marks().get(source)
        for name, text in (
            ("source", str(letter.source)),
            ("put aside", format_instant(letter.at_ms)),
            ("reason", letter.reason),
            ("detail", letter.detail),
            ("stage", letter.stage),
            ("replayed", "no" if replayed is None else f"to {replayed}"),
            *((f"header {name}", shown(value)) for name, value in letter.headers),
            ("key", shown(letter.key)),
            ("value", shown(letter.value)),
        ):
            self._say(f"{printable(name):12} {printable(text)}")
        return 0

    def dry_run(self, choice: Choice, *, unproven: bool) -> None:
        """Say what `send` would do with each."""
        judged = Judged(self._say, unproven=unproven)
        court, marks = self.court(), self.marks()
        for letter in self.letters(choice):
            judged.add(letter, court.judge(letter, marks))
        judged.summarize(sent="would be sent")

    async def send(self, choice: Choice, *, unproven: bool) -> dict[str, int]:
        """Send what passes, a transaction for each few hundred, and return how many there were of each verdict.

        Killed at any moment, the next run sends the rest.

        Raises:
            TallyError: it cannot go on; what it has said to be sent, is.
        """
        async with begin(self._settings) as transactions:
            marks = self.marks()  # after `begin`: see agents/replay_transactions.py
            judged, court = Judged(self._say, unproven=unproven), self.court()
            batch: list[DeadLetter] = []
            for letter in self.letters(choice):
                if judged.add(letter, court.judge(letter, marks)):
                    batch.append(letter)
                if len(batch) >= TRANSACTION_LETTERS_MAX or sum(map(weight, batch)) >= TRANSACTION_BYTES_MAX:
                    await self._send_batch(transactions, batch)
                    batch = []
            await self._send_batch(transactions, batch)
            judged.summarize(sent="sent")
            return judged.counts

    async def _send_batch(self, transactions: Transactions, batch: Sequence[DeadLetter]) -> None:
        if batch:
            for source, position in (await transactions.send(batch)).items():
                self._say(f"{source} sent to {position}")


class Judged:
    """Counts verdicts, and says those that leave a letter where it is."""

    def __init__(self, say: Say, *, unproven: bool) -> None:
        self._say = say
        self._sent = {Verdict.PASSES, Verdict.UNPROVEN} if unproven else {Verdict.PASSES}
        self._counts: Counter[Verdict] = Counter()

    @property
    def counts(self) -> dict[str, int]:
        """How many there were of each verdict."""
        return {str(verdict): count for verdict, count in sorted(self._counts.items())}

    def add(self, letter: DeadLetter, judgment: Judgment) -> bool:
        """Count a letter and return whether it is to be sent."""
        self._counts[judgment.verdict] += 1
        sent = judgment.verdict in self._sent
        if not sent:
            self._say(f"{letter.source} {judgment.verdict}: {printable(judgment.why)}")
        return sent

    def summarize(self, *, sent: str) -> None:
        """Say how many of each there were."""
        total = sum(count for verdict, count in self._counts.items() if verdict in self._sent)
        others = [f"{count} {verdict}" for verdict, count in sorted(self._counts.items()) if verdict not in self._sent]
        self._say(", ".join([f"{total} {sent}", *others]))


def weight(letter: DeadLetter) -> int:
    """Return about how many bytes a letter is."""
    return len(letter.value or b"") + sum(len(value or b"") for _, value in letter.headers)


def printable(text: str) -> str:
    """Return a text that a terminal shows and does not obey: a payload may hold anything."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def shown(raw: bytes | None) -> str:
    """Return bytes as text, what is no UTF-8 escaped, and of long ones the beginning."""
    if raw is None:
        return "(none)"
    more = f" … ({len(raw)} bytes)" if len(raw) > VALUE_BYTES_SHOWN_MAX else ""
    return raw[:VALUE_BYTES_SHOWN_MAX].decode("utf-8", "backslashreplace") + more


def instant_ms(text: str) -> int:
    """Return milliseconds since 1970 of an ISO instant; without a zone it is UTC.

    >>> instant_ms("2026-03-01T00:00:01+00:00") - instant_ms("2026-03-01")
    1000
    """
    instant = datetime.fromisoformat(text)
    return round((instant if instant.tzinfo else instant.replace(tzinfo=UTC)).timestamp() * 1000)


def main(arguments: list[str] | None = None, *, say: Say | None = None) -> int:
    """Do what the arguments say and return the exit status; an error is one line."""
    options = _parser().parse_args(arguments)
    try:
        settings = load_settings()
        if not settings.kafka.servers:
            raise SettingsError("kafka.servers is empty: say where Kafka is by TALLY_KAFKA_SERVERS (see stack.env)")
        url = options.url or f"http://{settings.gateway.host}:{settings.gateway.port}"
        with closing(Reader(settings.kafka)) as reader:
            return _do(options, Replay(settings, reader, url=url, say=say or _say))
    except TallyError as error:
        sys.stderr.write(f"replay: {error}\n")
        return BAD_SETTINGS if isinstance(error, SettingsError) else FAILED


def _do(options: argparse.Namespace, replay: Replay) -> int:
    if options.command == "show":
        return replay.show(Position(options.topic, options.partition, options.offset))
    choice = _choice(options)
    if options.command == "list":
        replay.list_groups(choice)
    elif options.dry_run:
        replay.dry_run(choice, unproven=options.unproven)
    elif choice == Choice() and not options.all:
        raise SettingsError("say which are to be sent: --reason, --partition …, or --all")
    else:
        replay.send_noted(choice, unproven=options.unproven)
    return 0


def _choice(options: argparse.Namespace) -> Choice:
    return Choice(
        reasons=frozenset(options.reason or ()),
        topic=options.topic,
        partition=options.partition,
        offset=options.offset,
        since_ms=options.since_ms,
        until_ms=options.until_ms,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m agents.replay", description=__doc__)
    parser.add_argument("--url", help="a gateway or worker; default: the gateway of the settings")
    commands = parser.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("list", help="count them by reason")
    showing = commands.add_parser("show", help="one of them, payload included")
    showing.add_argument("topic")
    showing.add_argument("partition", type=int)
    showing.add_argument("offset", type=int)
    sending = commands.add_parser("send", help="send those that pass now into their source topic, each once")
    for command in (listing, sending):
        command.add_argument("--reason", action="append", choices=list(map(str, Reason)), help="reason code; may be repeated")
        command.add_argument("--topic", help="source topic")
        command.add_argument("--partition", type=int, help="source partition")
        command.add_argument("--offset", type=int, help="source offset")
        command.add_argument("--since", type=instant_ms, dest="since_ms", default=0, help="put aside from then on, ISO 8601")
        command.add_argument("--until", type=instant_ms, dest="until_ms", help="put aside before")
    sending.add_argument("--all", action="store_true", help="without any of the above: all of them")
    sending.add_argument("--dry-run", action="store_true", help="only say what would be done")
    sending.add_argument("--unproven", action="store_true", help="send those too that may have been counted meanwhile")
    return parser


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
