"""Erase users for good, from workers, Kafka and Postgres: `python -m agents.erase --user COOKIE`; without --yes it only counts.

What is counted stays: aggregates name nobody. The order, each step of which may be done again (docs/decisions/0021):

0. Postgres counts the rows of the users, and notes which tables have some: the sinks delete rows as soon as 1 is done.
1. Every worker notes the erasure, writes the records of its changelog anew, and cleans RocksDB (agents/erase_rows.py).
2. The changelog is compacted, so that the older versions of those records are gone (agents/erase_topics.py).
3. Dead letters of the users leave Kafka (agents/erase_letters.py), and their sessions (agents/erase_sessions.py).
4. When the sinks are past all that, rows and dead letters leave Postgres (sinks/erase.py, a process of its own).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from agents.erase_letters import Letters
from agents.erase_sessions import ErasedSessions
from agents.erase_topics import Topics, compact, holds_erased
from agents.erase_workers import Workers
from streams.audit import Action, audited
from streams.errors import IncompleteAnswerError, SettingsError, TallyError
from streams.reading import Reader
from streams.settings import load_settings
from streams.topics import DEAD_LETTERS, STREAMS, Stream, changelog_of
from tables.erasures import Erasure, Erasures, digest_of

FAILED = 1
BAD_SETTINGS = 2
POSTGRES_TIME_S_MAX = 6 * 3_600.0
ROOT = Path(__file__).resolve().parent.parent
Say = Callable[[str], object]
Before = Mapping[int, int]
"""Source offset by partition; what is below it is erased."""


class Erase:
    """One run for some users of one stream, on an open reader."""

    def __init__(self, reader: Reader, workers: Workers, users: Sequence[str], *, stream: Stream, say: Say) -> None:
        self._settings = settings = workers.settings
        self._reader = reader
        self._workers = workers
        self._users = users
        self._say: Say = lambda line: say(f"{stream.topic}: {line}")
        self._stream = stream
        self._letters = Letters(settings, reader, self._stream, users)
        self._sessions = ErasedSessions(settings, reader, users)

    def dry_run(self) -> None:
        """Say what would be erased."""
        rows = self._workers.erase(self._users, self._stream, dry_run=True)
        self._say(f"workers: {_sum(rows, 'rows')} rows")
        sessions = sum(map(len, self._sessions.find().values()))
        self._say(f"kafka: {sum(self._letters.count().values())} dead letters, {sessions} sessions, and the rows' changelog")
        if self._settings.postgres.dsn:
            found = self._ask_postgres(dry_run=True)
            self._say(f"postgres: {found['events']} events, {found['letters']} dead letters")
        self._say("nothing is changed; add --yes to erase")

    def run(self, topics: Topics) -> None:
        """Erase, saying each step; that it begins, and how it ended, is noted in Postgres.

        Raises:
            AuditError: Postgres does not take the note.
            TallyError: it cannot go on; what was done stays done, and the next run does the rest.
        """
        digests = [digest_of(user.encode()).hex() for user in self._users]
        detail = {"topic": self._stream.topic, "users": len(digests), "digests": digests}
        with audited(self._settings, Action.ERASE, detail) as found:
            events = self._ask_postgres(applied=self._ends(), note_only=True)["events"]
            before = self._erase_rows(topics, found)
            found["letters"] = letters = self._letters.erase(topics, applied=self._wait_for_sinks)
            found["sessions"] = sessions = self._sessions.erase(topics)
            self._say(f"kafka: {letters} dead letters are gone, and {sessions} sessions are forgotten")
            found["postgres_letters"] = letters = self._erase_postgres(before)
            found["postgres_events"] = events
            self._say(f"postgres: {events} events, which were there at the beginning, and {letters} dead letters are gone")
        days = self._settings.topics.retention_s / 86_400
        self._say(
            f"{self._stream.topic} keeps the events themselves until its retention ends, {days:g} days after they came, "
            "and backups as long as they are kept"
        )

    def _erase_rows(self, topics: Topics, found: dict[str, Any]) -> Before:
        """Erase what the workers keep, and what lies in their changelog; return up to where."""
        done = self._workers.erase(self._users, self._stream, dry_run=False)
        found |= {"rows": _sum(done, "rows"), "records": _sum(done, "records")}
        self._say(f"workers: {found['rows']} rows are gone, {found['records']} records of the changelog written anew")
        before = {partition: counts["before"] for partition, counts in done.items()}
        topic = changelog_of(self._stream.rows_table)
        if self._holds(before) or topics.is_altered(topic):
            self._say(f"kafka: {topic} is being compacted")
            compact(
                topics,
                self._stream,
                roll=lambda: self._workers.erase(self._users, self._stream, dry_run=False, before=before),
                holds=lambda: self._holds(before),
            )
        self._say(f"kafka: {topic} holds no row of theirs")
        return before

    def _holds(self, before: Before) -> bool:
        erased = {partition: Erasures() for partition in before}
        for partition, offset in before.items():
            erased[partition].add(Erasure(digest_of(user.encode()), offset) for user in self._users)
        return holds_erased(self._reader, self._stream, self._users, erased)

    def _wait_for_sinks(self, topic: str, ends: Before) -> None:
        if ends:
            self._ask_postgres(applied={topic: ends}, wait_only=True)

    def _erase_postgres(self, before: Before) -> int:
        """Erase what the sinks have not deleted: dead letters, and rows whose changelog is gone; return how many letters."""
        done = self._ask_postgres(before=before, applied=self._ends())
        if not done["statistics"]:
            self._say("postgres: the owner of the database must run `VACUUM FULL pg_catalog.pg_statistic; CHECKPOINT`")
        return int(done["letters"])

    def _ends(self) -> dict[str, dict[int, int]]:
        """Return the ends of the topics from which rows of users come into Postgres."""
        return {
            topic: {partition: bounds.decided for partition, bounds in self._reader.bounds(topic).items() if bounds.decided}
            for topic in (changelog_of(self._stream.rows_table), DEAD_LETTERS)
        }

    def _ask_postgres(self, **fields: Any) -> dict[str, Any]:
        """Have `sinks.erase` do something; no edge knows another, and no user stands in a process list."""
        order = msgspec.json.encode({"users": list(self._users), "topic": self._stream.topic, **fields})
        ended = subprocess.run(
            [sys.executable, "-m", "sinks.erase"], input=order, cwd=ROOT, capture_output=True, timeout=POSTGRES_TIME_S_MAX,
            check=False,
        )  # fmt: skip
        if ended.returncode != 0:
            raise IncompleteAnswerError(ended.stderr.decode(errors="replace").strip().removeprefix("erase: "))
        answer: dict[str, Any] = msgspec.json.decode(ended.stdout)
        return answer


def _sum(done: Mapping[int, Mapping[str, int]], name: str) -> int:
    return sum(counts[name] for counts in done.values())


def read_users(options: argparse.Namespace) -> list[str]:
    """Return whom to erase, each once, in the order given.

    Raises:
        SettingsError: nobody is named, or a name cannot be one.
    """
    users = list(options.user or ())
    if options.users_from:
        try:
            text = sys.stdin.read() if options.users_from == "-" else Path(options.users_from).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"{options.users_from}: {error}") from error
        users += text.splitlines()
    named = list(dict.fromkeys(user for user in users if user))
    if not named:
        raise SettingsError("say whom to erase: --user COOKIE, or --users-from FILE with one a line")
    if any("\0" in user or any("\ud800" <= letter <= "\udfff" for letter in user) for user in named):
        raise SettingsError("a name with NUL or a lone surrogate is no user's: no event with it was taken")
    return named


def main(arguments: list[str] | None = None, *, say: Say | None = None) -> int:
    """Do what the arguments say and return the exit status; an error is one line."""
    options = _parser().parse_args(arguments)
    try:
        users = read_users(options)
        settings = load_settings()
        if not settings.kafka.servers:
            raise SettingsError("kafka.servers is empty: say where Kafka is by TALLY_KAFKA_SERVERS (see stack.env)")
        workers = Workers(settings, options.worker or ())
        with closing(Reader(settings.kafka)) as reader:
            runs = [Erase(reader, workers, users, stream=stream, say=say or _say) for stream in STREAMS]
            if not options.yes:
                for each in runs:
                    each.dry_run()
                return 0
            with closing(Topics(settings)) as topics:
                for each in runs:
                    each.run(topics)
    except TallyError as error:
        sys.stderr.write(f"erase: {error}\n")
        return BAD_SETTINGS if isinstance(error, SettingsError) else FAILED
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m agents.erase", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--user", action="append", help="whom to erase, as in the events; may be repeated")
    parser.add_argument("--users-from", metavar="FILE", help="one user a line; - for standard input: no user in a process list")
    parser.add_argument("--worker", action="append", metavar="URL", help="any worker; default: those of the settings")
    parser.add_argument("--yes", action="store_true", help="erase; without it nothing is changed")
    return parser


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
