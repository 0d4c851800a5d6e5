"""Make the tables of user tags, the dead letters, the offsets, the view for reports and the role that may read them.

Never edited once merged: a change is another file.
"""

from __future__ import annotations

from alembic import op

revision = "2026_11_22_first_tables"
down_revision = None
branch_labels = None
depends_on = None

TABLES = (
    """
    CREATE TABLE tally.minute_cells (
        stored_on        date        NOT NULL,
        source_partition integer     NOT NULL,
        bucket           bigint      NOT NULL,
        minute_at        timestamptz NOT NULL,
        action           text        NOT NULL,
        origin           text        NOT NULL,
        brand_id         text        NOT NULL,
        category_id      text        NOT NULL,
        event_count      bigint      NOT NULL,
        price_sum        bigint      NOT NULL
    ) PARTITION BY RANGE (stored_on)
    """,
    # Finds the rows of a block that is replaced: 4,096 rows share one entry, so it costs little.
    "CREATE INDEX minute_cells_block ON tally.minute_cells (source_partition, bucket, minute_at)",
    # Reports ask for minutes, and rows lie nearly in their order.
    "CREATE INDEX minute_cells_minute ON tally.minute_cells USING brin (minute_at) WITH (pages_per_range = 32)",
    """
    CREATE TABLE tally.minute_cells_blocks (
        source_partition integer     NOT NULL,
        bucket           bigint      NOT NULL,
        minute_at        timestamptz NOT NULL,
        through          bigint      NOT NULL,
        stored_on        date        NOT NULL,
        PRIMARY KEY (source_partition, bucket, minute_at)
    ) WITH (fillfactor = 80)
    """,
    """
    CREATE TABLE tally.user_events (
        cookie           text        NOT NULL,
        occurred_at      timestamptz NOT NULL,
        action           text        NOT NULL,
        country          text        NOT NULL,
        device           text        NOT NULL,
        origin           text        NOT NULL,
        product_id       text        NOT NULL,
        brand_id         text        NOT NULL,
        category_id      text        NOT NULL,
        price            bigint      NOT NULL,
        source_partition integer     NOT NULL,
        source_offset    bigint      NOT NULL,
        stored_on        date        NOT NULL
    ) PARTITION BY RANGE (stored_on)
    """,
    "CREATE INDEX user_events_source ON tally.user_events (source_partition, source_offset)",
    "CREATE INDEX user_events_time ON tally.user_events USING brin (occurred_at) WITH (pages_per_range = 32)",
    """
    CREATE TABLE tally.dead_letters (
        source_topic     text        NOT NULL,
        source_partition integer     NOT NULL,
        source_offset    bigint      NOT NULL,
        reason           text        NOT NULL,
        detail           text        NOT NULL,
        stage            text        NOT NULL,
        record_key       bytea,
        record_value     bytea,
        record_headers   jsonb       NOT NULL,
        recorded_at      timestamptz NOT NULL,
        PRIMARY KEY (source_topic, source_partition, source_offset)
    )
    """,
    "CREATE INDEX dead_letters_recorded ON tally.dead_letters USING brin (recorded_at)",
    """
    CREATE TABLE tally.sink_offsets (
        topic       text        NOT NULL,
        partition   integer     NOT NULL,
        next_offset bigint      NOT NULL,
        updated_at  timestamptz NOT NULL,
        PRIMARY KEY (topic, partition)
    ) WITH (fillfactor = 50)
    """,
    """
    CREATE VIEW tally.minute_aggregates AS
    SELECT minute_at, action, origin, brand_id, category_id,
           sum(event_count)::bigint AS event_count, sum(price_sum)::bigint AS price_sum
      FROM tally.minute_cells
     GROUP BY minute_at, action, origin, brand_id, category_id
    """,
)

# A role belongs to the whole server: another database's migration may have made it, or makes it at this moment.
ROLE = """
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'tally_reader') THEN
        CREATE ROLE tally_reader NOLOGIN;
        ALTER ROLE tally_reader SET default_transaction_read_only = on;
        ALTER ROLE tally_reader SET statement_timeout = '15s';
        ALTER ROLE tally_reader SET idle_in_transaction_session_timeout = '60s';
        COMMENT ON ROLE tally_reader IS 'may read what reports need in schema tally, and write nothing';
    END IF;
EXCEPTION
    WHEN duplicate_object OR unique_violation THEN
        NULL;
END
$$
"""

READABLE = "tally.minute_aggregates, tally.user_events, tally.dead_letters, tally.sink_offsets"
PERSONAL = "(personal data) "

COMMENTS = {
    "minute_cells": (
        "events counted by minute and dimensions, per source partition and bucket; read them through minute_aggregates",
        {
            "stored_on": "UTC day on which the record of this row arrived in Kafka; retention goes by it",
            "source_partition": "partition of the source topic whose events these are",
            "bucket": "number of the run of 4096 source offsets whose events these are",
            "minute_at": "start of the minute in which the events happened, by their own time",
            "action": "what the user did: VIEW or BUY",
            "origin": "campaign that brought the user",
            "brand_id": "brand of the product",
            "category_id": "category of the product",
            "event_count": "number of events",
            "price_sum": "sum of the prices of the events",
        },
    ),
    "minute_cells_blocks": (
        "which version of each block lies in minute_cells: of one block the greatest through wins",
        {
            "source_partition": "partition of the source topic",
            "bucket": "number of the run of 4096 source offsets",
            "minute_at": "start of the event minute",
            "through": "last source offset that this version has counted",
            "stored_on": "day of minute_cells under which the rows of this version lie",
        },
    ),
    "user_events": (
        PERSONAL + "one row an event, as it was received",
        {
            "cookie": PERSONAL + "the user",
            "occurred_at": PERSONAL + "when it happened, by the event itself, to the millisecond",
            "action": PERSONAL + "what the user did: VIEW or BUY",
            "country": PERSONAL + "country of the user",
            "device": PERSONAL + "device of the user: PC, MOBILE or TV",
            "origin": PERSONAL + "campaign that brought the user",
            "product_id": PERSONAL + "the product; a number is written as its digits",
            "brand_id": PERSONAL + "brand of the product",
            "category_id": PERSONAL + "category of the product",
            "price": PERSONAL + "price of the product",
            "source_partition": "partition of the source topic that holds the event",
            "source_offset": "offset of the event in that partition",
            "stored_on": "UTC day on which the record of this row arrived in Kafka; retention goes by it",
        },
    ),
    "dead_letters": (
        PERSONAL + "one row a record that could not be counted or written, by where it came from",
        {
            "source_topic": "topic of the record",
            "source_partition": "partition of the record",
            "source_offset": "offset of the record",
            "reason": "code of a closed set, see docs/data.md",
            "detail": "what is wrong and where, without the payload",
            "stage": "which part of Tally refused it",
            "record_key": PERSONAL + "key of the record as it came; NULL where it had none",
            "record_value": PERSONAL + "value of the record as it came; NULL where it had none",
            "record_headers": PERSONAL + "headers of the record as it came: a list of [name, text]",
            "recorded_at": "when the dead letter was written to Kafka",
        },
    ),
    "sink_offsets": (
        "what has been applied: moves in the transaction of the rows, so it is never ahead of them or behind",
        {
            "topic": "topic that the sinks read",
            "partition": "its partition",
            "next_offset": "offset of the first record that is not yet in Postgres",
            "updated_at": "when it last moved",
        },
    ),
    "minute_aggregates": (
        "events by minute and dimensions, complete up to sink_offsets",
        {
            "minute_at": "start of the minute in which the events happened, by their own time",
            "action": "what the user did: VIEW or BUY",
            "origin": "campaign that brought the user",
            "brand_id": "brand of the product",
            "category_id": "category of the product",
            "event_count": "number of events",
            "price_sum": "sum of the prices of the events",
        },
    ),
    "schema_version": ("which migration was applied last", {"version_num": "revision, a file of sinks/migrations"}),
}


def upgrade() -> None:
    """Make everything."""
    for statement in (*TABLES, ROLE):
        op.execute(statement)
    op.execute("GRANT USAGE ON SCHEMA tally TO tally_reader")
    op.execute(f"GRANT SELECT ON {READABLE} TO tally_reader")
    op.execute("COMMENT ON SCHEMA tally IS 'what Tally has counted, for reports'")
    for table, (text, columns) in COMMENTS.items():
        kind = "VIEW" if table == "minute_aggregates" else "TABLE"
        op.execute(f"COMMENT ON {kind} tally.{table} IS '{text}'".replace(":", r"\:"))
        for column, meaning in columns.items():
            op.execute(f"COMMENT ON COLUMN tally.{table}.{column} IS '{meaning}'".replace(":", r"\:"))


def downgrade() -> None:
    """Drop everything but the role, which other databases of the server may use."""
    op.execute("REVOKE USAGE ON SCHEMA tally FROM tally_reader")
    op.execute("DROP VIEW tally.minute_aggregates")
    for table in ("sink_offsets", "dead_letters", "user_events", "minute_cells_blocks", "minute_cells"):
        op.execute(f"DROP TABLE tally.{table}")
