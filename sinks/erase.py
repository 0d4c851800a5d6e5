"""Erase users from Postgres, for `python -m agents.erase`, which says on standard input what to do: `python -m sinks.erase`.

A deleted row's bytes stay in its page, so every table that had some is written anew. Which ones is noted before the workers
begin, because the sinks delete rows too, when they read a record that was written anew without them; and once more in the
transaction that deletes the rest. The note goes when the table is written. Killed at any moment, the next run does the rest.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from time import sleep
from typing import Any

import msgspec
import psycopg
from psycopg import sql

from sinks.days import day_of, partition_name
from sinks.forward import IMMEDIATE
from sinks.postgres import Postgres, connect
from sinks.queries import event_query, table_name
from sinks.reports import REPORTED, Counts, Seen, save_counts
from streams.clock import SYSTEM_CLOCK
from streams.errors import IncompleteAnswerError, SettingsError, TallyError
from streams.settings import Settings, load_settings
from streams.statements import Statements
from streams.topics import EVENTS, STREAMS, USER_TAGS, changelog_of
from tables.erasures import names_user

FAILED = 1
BAD_SETTINGS = 2
NOTE = " (erased rows are still in its file)"
LETTERS = "dead_letters"
LOG = "txn_log"
COUNTS = "value_counts"
SINKS_WITHIN_S = 60.0
READERS_WITHIN_S = 120.0
PAUSE_S = 0.5
CURSOR_ROWS = 1_000
query = Statements(Path(__file__).with_name("erase.sql")).query


class Order(msgspec.Struct, forbid_unknown_fields=True):
    """What to do.

    Attributes:
        topic: of the stream whose users they are.
        before: source offset by partition; later events stay.
        applied: offsets by topic and partition that the sinks must have passed before anything is done.
        wait_only: nothing but that.
        note_only: that, and note which tables have rows of the users, and count these.
        dry_run: only count.
    """

    users: list[str]
    topic: str = USER_TAGS.topic
    before: dict[int, int] = {}
    applied: dict[str, dict[int, int]] = {}
    wait_only: bool = False
    note_only: bool = False
    dry_run: bool = False


class Answer(msgspec.Struct):
    """What was done, or would be.

    Attributes:
        events, letters: rows that were deleted, or are there; those of the transaction log are not told.
        rewritten: tables whose files were written anew.
        statistics: whether the server let us write its statistics anew, which may hold a user as a frequent value.
    """

    events: int = 0
    letters: int = 0
    rewritten: list[str] = []
    statistics: bool = True


class Erasing:
    """One order on one connection."""

    def __init__(self, order: Order, settings: Settings, connection: psycopg.Connection) -> None:
        """Describe the order.

        Raises:
            SettingsError: there is no such stream.
        """
        self._order = order
        self._settings = settings
        self._stream = next((stream for stream in STREAMS if stream.topic == order.topic), USER_TAGS)
        if self._stream.topic != order.topic:
            raise SettingsError(f"{order.topic!r} is the topic of no stream")
        self._connection = connection
        self._dead_left = 0
        self._connection.add_notice_handler(self._note_dead)
        self._has_log = self._stream is EVENTS
        user = sql.Identifier(self._stream.user_sql)
        self._events = {"events": table_name(self._stream.events_sql), "user": user}
        self._log = {"events": table_name(LOG), "user": user}

    def run(self) -> Answer:
        """Do what is asked; a second run finds nothing, or what the first could not finish.

        Raises:
            IncompleteAnswerError: the sinks are behind, or a reader of Postgres still sees what was deleted.
        """
        self._connection.execute(query("set_patience"))
        if self._order.dry_run:
            return Answer(sum(rows for _, rows in self._holding(self._events)), len(self._letters()))
        self._wait_for_sinks()
        if self._order.wait_only:
            return Answer()
        answer = Answer()
        with self._connection.transaction():
            self._note_today()
            if self._order.note_only:
                return Answer(self._note_holding())
            answer.events = self._delete_events()
            answer.letters = self._delete_letters()
        answer.rewritten = self._rewrite()
        for names in (self._events, self._log) if self._has_log else (self._events,):
            self._connection.execute(query("analyze_events", events=names["events"]))
        answer.statistics = self._rewrite_statistics()
        return answer

    def _wait_for_sinks(self) -> None:
        """Return when the sinks have written all that speaks of the users; what they write later is without them."""
        wanted = {topic: ends for topic, ends in self._order.applied.items() if self._is_read(topic)}
        if self._has_log and self._settings.sinks.events:
            wanted[self._stream.topic] = self._order.before  # Else the log would tell of them afterwards.
            if self._settings.sinks.events_forward != IMMEDIATE:
                self._connection.execute(event_query("ask_forward"))
        until_s = SYSTEM_CLOCK.monotonic_s() + SINKS_WITHIN_S
        postgres = Postgres(self._settings.postgres.dsn)
        try:
            while behind := self._behind(postgres, wanted):
                if SYSTEM_CLOCK.monotonic_s() > until_s:
                    raise IncompleteAnswerError(f"the sinks have not written {behind} yet; start them, and run it again")
                sleep(PAUSE_S)
        finally:
            postgres.close()

    def _is_read(self, topic: str) -> bool:
        has_rows = self._settings.sinks.events if self._has_log else self._settings.sinks.user_events
        return has_rows or topic != changelog_of(self._stream.rows_table)

    def _behind(self, postgres: Postgres, wanted: dict[str, dict[int, int]]) -> str:
        """Return the first place that the sinks have not reached."""
        reached = postgres.positions()
        for topic, ends in wanted.items():
            for partition, end in ends.items():
                if end > reached.get((topic, partition), 0):  # type: ignore[call-overload] # a Place is a tuple
                    return f"{topic} partition {partition} up to offset {end}"
        return ""

    def _holding(self, names: Mapping[str, sql.Composable]) -> list[tuple[str, int]]:
        """Return the tables that have rows of the users now, and how many."""
        return self._connection.execute(query("tables_holding", **names), {"users": self._order.users}).fetchall()

    def _delete_events(self) -> int:
        """Delete the rows, what the log says of them, and what the reports have counted; return how many rows went."""
        values = {
            "users": self._order.users,
            "partitions": list(self._order.before),
            "befores": list(self._order.before.values()),
        }
        if not self._has_log:
            return self._delete_from(self._events, values)
        rows = self._delete_submissions(values)
        self._delete_from(self._log, values)
        return rows

    def _delete_from(self, names: Mapping[str, sql.Composable], values: dict[str, Any]) -> int:
        return self._note_all(self._connection.execute(query("erase_events", **names), values).fetchall())

    def _delete_submissions(self, values: dict[str, Any]) -> int:
        statement, reported = query("erase_submissions", **self._events), {"reported": list(REPORTED)}
        with self._connection.cursor() as cursor:
            found = cursor.execute(statement, values | reported).fetchall()
            counts = Counts({Seen(*fields): -rows for table, *fields, rows in found if table is None})
            save_counts(cursor, counts, today=day_of(SYSTEM_CLOCK.now_ms()))
            if cursor.execute(query("erase_counts")).rowcount:
                self._note(f"tally.{COUNTS}")
        return self._note_all([(table, rows) for table, *_, rows in found if table is not None])

    def _note_all(self, found: Iterable[tuple[str, int]]) -> int:
        """Note the tables that lose rows, and return how many."""
        rows = 0
        for table, number in found:
            self._note(table)
            rows += number
        return rows

    def _note_holding(self) -> int:
        """Note the tables that have rows of the users now, and return how many of them are events."""
        if self._has_log:
            self._note_all(self._holding(self._log))
        return self._note_all(self._holding(self._events))

    def _note_today(self) -> None:
        """Note the table that rows may come into, and be deleted from, while this is being done."""
        name = partition_name(self._stream.events_sql, day_of(SYSTEM_CLOCK.now_ms()))
        for (table,) in self._connection.execute(query("find_table"), {"name": f"tally.{name}"}).fetchall():
            self._note(table)
        if self._has_log:
            self._note(f"tally.{LOG}")

    def _letters(self) -> list[tuple[str, int, int]]:
        """Return the identities of the users' dead letters."""
        users = {user.encode() for user in self._order.users}
        found: list[tuple[str, int, int]] = []
        with self._connection.transaction(), self._connection.cursor("letters") as cursor:
            cursor.itersize = CURSOR_ROWS
            for *place, key, value, headers in cursor.execute(query("read_letters")):
                pairs = [(name, text.encode()) for name, text in headers]
                if names_user(key, value, pairs, users, stream=self._stream):
                    found.append((place[0], place[1], place[2]))
        return found

    def _delete_letters(self) -> int:
        found = self._letters()
        if found:
            topics, partitions, offsets = map(list, zip(*found, strict=True))
            self._connection.execute(query("erase_letters"), {"topics": topics, "partitions": partitions, "offsets": offsets})
            self._note(f"tally.{LETTERS}")
        return len(found)

    # -- the bytes

    def _note(self, table: str) -> None:
        """Remember that a table's file has to be written anew."""
        row = self._connection.execute(query("describe"), {"table": table}).fetchone()
        text = str(row[0]) if row else ""
        if not text.endswith(NOTE):
            self._comment(table, text + NOTE)

    def _comment(self, table: str, text: str) -> None:
        self._connection.execute(query("note_rewrite", table=_identifier(table), text=sql.Literal(text)))

    def _rewrite(self) -> list[str]:
        """Write the noted tables anew and return their names."""
        noted = self._connection.execute(query("tables_to_rewrite"), {"note": NOTE}).fetchall()
        for table, text in noted:
            until_s = SYSTEM_CLOCK.monotonic_s() + READERS_WITHIN_S
            while self._dead_after_rewrite(table):
                if SYSTEM_CLOCK.monotonic_s() > until_s:
                    raise IncompleteAnswerError(
                        f"an open transaction still sees {self._dead_left} deleted rows of {table}; "
                        "end it (pg_stat_activity, replication slots), and run it again"
                    )
                sleep(PAUSE_S)
            self._comment(table, text.removesuffix(NOTE))
        return [table for table, _ in noted]

    def _dead_after_rewrite(self, table: str) -> int:
        self._dead_left = 0
        self._connection.execute(query("rewrite", table=_identifier(table)))
        return self._dead_left

    def _note_dead(self, notice: psycopg.errors.Diagnostic) -> None:
        """Take from what VACUUM says how many deleted rows somebody still sees."""
        if match := re.match(r"(\d+) dead row versions cannot be removed yet", notice.message_detail or ""):
            self._dead_left += int(match[1])

    def _rewrite_statistics(self) -> bool:
        row = self._connection.execute(query("can_clear_statistics")).fetchone()
        try:
            self._connection.execute(query("clear_statistics" if row and row[0] else "delete_statistics"))
            self._connection.execute(query("rewrite_statistics"))
            self._connection.execute(query("checkpoint"))
        except psycopg.errors.InsufficientPrivilege:
            return False
        return True


def _identifier(table: str) -> sql.Identifier:
    """Return the name of a table, as Postgres writes it, as an identifier."""
    return sql.Identifier(*(part.strip('"') for part in table.split(".")))


def erase(order: Order, settings: Settings) -> Answer:
    """Do an order on a connection of its own; see `Erasing.run`.

    Raises:
        SettingsError: there is no such stream.
        IncompleteAnswerError: the sinks are behind, or a reader of Postgres still sees what was deleted.
        psycopg.Error: as Postgres raised it.
    """
    with closing(connect(settings.postgres.dsn)) as connection:
        return Erasing(order, settings, connection).run()


def main(lines: Iterable[str]) -> int:
    """Do what the lines, one JSON document, say; write the answer as JSON, or one line of error."""
    try:
        order = msgspec.json.decode("".join(lines), type=Order)
        settings = load_settings()
        if not settings.postgres.dsn:
            raise SettingsError("postgres.dsn is empty")
        answer: Any = erase(order, settings)
    except msgspec.DecodeError:
        sys.stderr.write("erase: standard input is no order; run `python -m agents.erase`\n")
        return BAD_SETTINGS
    except TallyError as error:
        sys.stderr.write(f"erase: {error}\n")
        return BAD_SETTINGS if isinstance(error, SettingsError) else FAILED
    except psycopg.Error as error:
        sys.stderr.write(f"erase: postgres: {str(error).splitlines()[0]}\n")
        return FAILED
    sys.stdout.write(msgspec.json.encode(answer).decode() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.stdin))
