"""What is personal data is said in the schema; Postgres agrees by its comments, and Kafka by how long it keeps it."""

from __future__ import annotations

import psycopg
import pytest

from sinks.migrate import migrate
from sinks.profiles import event_columns
from sinks.retention import events_days
from stack.topics import topic_specs
from streams.schemas import personal_fields
from streams.settings import Settings
from streams.topics import DEAD_LETTERS, EVENTS, SESSIONS, STREAMS, Stream

WEEK_S = 7 * 86_400
MARK = "(personal data) "
OF_RECORDS = {("dead_letters", column) for column in ("record_key", "record_value", "record_headers")}
OF_COMMANDS = {("audit", column) for column in ("who", "os_user")}


OF_SUBMISSIONS = {("event", column) for column in ("pennkey", "datapoint", "value", "timestamp")} | {
    ("txn_log", "txn_id"),
    ("txn_log", "user_id"),
}
"""A view and a log of the submissions that `events` has."""
COLUMNS_OF_EVENTS = {
    "user": "user_id",
    "time": "occurred_at",
    "kind": "kind",
    "id": "event_id",
    "product": "product",
    "source": "source",
    "properties": "properties",
    "data.key": "datapoint",
    "data.value": "value",
}


def columns_of(stream: Stream) -> dict[str, str]:
    """Return the column of each field of a stream's events; of one with members a row is a member."""
    if stream is EVENTS:
        return COLUMNS_OF_EVENTS
    user, at, kind, *kept = event_columns(stream)
    return {stream.key: user, stream.time: at, stream.kind: kind, **dict(zip(stream.kept, kept, strict=True))}


def marked(dsn: str) -> set[tuple[str, str]]:
    """Return table and column where the comment says personal data; days of a partitioned table are those of their table."""
    statement = """
        SELECT c.relname, a.attname
          FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
         WHERE c.relnamespace = 'tally'::regnamespace AND NOT c.relispartition
           AND starts_with(col_description(c.oid, a.attnum), %s)
    """
    with psycopg.connect(dsn) as connection:
        return {(table, column) for table, column in connection.execute(statement, (MARK,)).fetchall()}


def test_comments_of_postgres_say_what_the_schema_says(fresh_database: str) -> None:
    """Whoever exports a table sees which columns are about people; a field that is tagged, or no longer, is a migration."""
    migrate(fresh_database)
    tagged = {
        (stream.events_sql, column)
        for stream in STREAMS
        for path, column in columns_of(stream).items()
        if path in set(personal_fields(stream.schema))
    }
    assert marked(fresh_database) == tagged | OF_RECORDS | OF_COMMANDS | OF_SUBMISSIONS


@pytest.mark.parametrize("stream", STREAMS, ids=lambda stream: stream.topic)
def test_every_field_that_is_kept_of_a_user_is_tagged(stream: Stream) -> None:
    """A row names the user, so all that stands in it is about somebody; a field that is added is no exception by accident."""
    assert set(columns_of(stream)) <= set(personal_fields(stream.schema))


def test_what_users_sent_is_kept_a_week_unless_somebody_says_longer() -> None:
    """The defaults of the source topics, of the topic of dead letters and, event by event, of Postgres."""
    settings = Settings()
    specs = {spec.name: int(spec.configs["retention.ms"]) for spec in topic_specs(settings) if "retention.ms" in spec.configs}
    assert {name for name, kept_ms in specs.items() if kept_ms > WEEK_S * 1000} == {SESSIONS}  # names whose session it is
    assert specs[SESSIONS] == settings.analytics.session_s * 1000
    assert {*(stream.topic for stream in STREAMS), DEAD_LETTERS} <= set(specs)
    assert {stream.topic for stream in STREAMS if events_days(settings.sinks, stream) * 86_400 > WEEK_S} == set()
    assert settings.sinks.dead_letters_days == 90
