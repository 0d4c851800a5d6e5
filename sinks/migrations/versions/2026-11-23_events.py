"""Make the tables of `events.v1`: datapoints, their cells and rollups, the transaction log, forward positions and reports.

Never edited once merged: a change is another file.
"""

from __future__ import annotations

from alembic import op

revision = "2026_11_23_events"
down_revision = "2026_11_23_audit"
branch_labels = None
depends_on = None

EVENTS = (
    """
    CREATE TABLE tally.events (
        user_id          text,
        occurred_at      timestamptz NOT NULL,
        kind             text        NOT NULL,
        product          text        NOT NULL,
        event_id         text        NOT NULL,
        datapoint        text        NOT NULL,
        value            text        NOT NULL,
        source           text        NOT NULL,
        properties       json,
        source_partition integer     NOT NULL,
        source_offset    bigint      NOT NULL,
        position         integer     NOT NULL,
        stored_on        date        NOT NULL
    ) PARTITION BY RANGE (stored_on)
    """,
    "CREATE INDEX events_source ON tally.events (source_partition, source_offset)",
    "CREATE INDEX events_time ON tally.events USING brin (occurred_at) WITH (pages_per_range = 32)",
    # 10 bits of partition (at most 1,000), 39 of offset, 14 of position (at most 10,000): stable, unlike a sequence's number.
    """
    CREATE VIEW tally.event AS
    SELECT (source_partition::bigint << 53) | (source_offset << 14) | position AS id,
           product, user_id AS pennkey, datapoint, value, occurred_at AT TIME ZONE 'UTC' AS "timestamp"
      FROM tally.events
     WHERE kind = 'TRANSACTION'
    """,
)
CELLS = (
    """
    CREATE TABLE tally.event_minute_cells (
        stored_on        date        NOT NULL,
        source_partition integer     NOT NULL,
        bucket           bigint      NOT NULL,
        minute_at        timestamptz NOT NULL,
        kind             text        NOT NULL,
        product          text        NOT NULL,
        datapoint        text        NOT NULL,
        event_count      bigint      NOT NULL
    ) PARTITION BY RANGE (stored_on)
    """,
    "CREATE INDEX event_minute_cells_block ON tally.event_minute_cells (source_partition, bucket, minute_at)",
    """
    CREATE INDEX event_minute_cells_minute
        ON tally.event_minute_cells USING brin (minute_at) WITH (pages_per_range = 32)
    """,
    """
    CREATE TABLE tally.event_minute_cells_blocks (
        source_partition integer     NOT NULL,
        bucket           bigint      NOT NULL,
        minute_at        timestamptz NOT NULL,
        through          bigint      NOT NULL,
        stored_on        date        NOT NULL,
        PRIMARY KEY (source_partition, bucket, minute_at)
    ) WITH (fillfactor = 80)
    """,
    """
    CREATE VIEW tally.event_aggregates AS
    SELECT minute_at, kind, product, datapoint, sum(event_count)::bigint AS event_count
      FROM tally.event_minute_cells
     GROUP BY minute_at, kind, product, datapoint
    """,
    """
    CREATE TABLE tally.event_hour_cells_touched (
        stored_on        date        NOT NULL,
        hour_at          timestamptz NOT NULL,
        source_partition integer     NOT NULL,
        version          bigint      NOT NULL,
        touched_at       timestamptz NOT NULL,
        PRIMARY KEY (stored_on, hour_at, source_partition)
    ) WITH (fillfactor = 50)
    """,
)
ROLLED_CELLS = """
    CREATE TABLE tally.event_{unit}_cells (
        stored_on   date        NOT NULL,
        {unit}_at   timestamptz NOT NULL,
        slice       smallint    NOT NULL,
        kind        text        NOT NULL,
        product     text,
        datapoint   text,
        event_count bigint      NOT NULL
    )
"""
# Without the texts: two of 512 characters may be longer together than what an index takes.
ROLLED_INDEX = "CREATE INDEX event_{unit}_cells_slice ON tally.event_{unit}_cells (stored_on, {unit}_at, slice, kind)"
ROLLED = """
    CREATE TABLE tally.event_{unit}_cells_rolled (
        stored_on date        NOT NULL,
        {unit}_at timestamptz NOT NULL,
        version   bigint      NOT NULL,
        rolled_at timestamptz NOT NULL,
        PRIMARY KEY (stored_on, {unit}_at)
    ) WITH (fillfactor = 80)
"""
LOG = (
    """
    CREATE TABLE tally.txn_log (
        txn_id           text        NOT NULL,
        state            text        NOT NULL CHECK (state IN ('PENDING', 'DONE', 'FAILED')),
        attempts         integer     NOT NULL,
        error            text,
        created_at       timestamptz NOT NULL,
        updated_at       timestamptz NOT NULL,
        kind             text        NOT NULL,
        product          text        NOT NULL,
        user_id          text,
        datapoints       integer     NOT NULL,
        source_partition integer     NOT NULL,
        source_offset    bigint      NOT NULL,
        last_offset      bigint      NOT NULL,
        identity         uuid        NOT NULL,
        PRIMARY KEY (identity, source_partition)
    ) WITH (fillfactor = 80)
    """,
    # Whoever asks for one knows its id; a hash takes ids of any length.
    "CREATE INDEX txn_log_id ON tally.txn_log USING hash (txn_id)",
    """
    CREATE INDEX txn_log_pending
        ON tally.txn_log (source_partition, source_offset) INCLUDE (datapoints) WHERE state = 'PENDING'
    """,
    "CREATE INDEX txn_log_updated ON tally.txn_log USING brin (updated_at)",
    """
    CREATE TABLE tally.forward_positions (
        topic        text    NOT NULL,
        partition    integer NOT NULL,
        rows_through bigint  NOT NULL DEFAULT -1,
        window_at    timestamptz,
        forward_to   bigint,
        opened_at    timestamptz,
        asked_at     timestamptz,
        PRIMARY KEY (topic, partition)
    ) WITH (fillfactor = 50)
    """,
)
REPORTS = (
    """
    CREATE TABLE tally.value_counts (
        datapoint        text    NOT NULL,
        day              date    NOT NULL,
        value            text    NOT NULL,
        source_partition integer NOT NULL,
        value_count      bigint  NOT NULL,
        updated_on       date    NOT NULL,
        value_digest     uuid    NOT NULL,
        PRIMARY KEY (datapoint, day, source_partition, value_digest)
    ) WITH (fillfactor = 80)
    """,
    """
    CREATE VIEW tally.clicks_per_post AS
    SELECT value AS post, sum(value_count)::bigint AS clicks
      FROM tally.value_counts
     WHERE datapoint = 'post.click'
     GROUP BY value
    HAVING sum(value_count) > 0
    """,
    """
    CREATE VIEW tally.visits_per_club_day AS
    SELECT value AS club, day, sum(value_count)::bigint AS visits
      FROM tally.value_counts
     WHERE datapoint = 'club.visit'
     GROUP BY value, day
    HAVING sum(value_count) > 0
    """,
    # By the bytes of the name, so that equal counts have one order whatever the database's language.
    """
    CREATE VIEW tally.top_course_searches AS
    SELECT row_number() OVER (ORDER BY sum(value_count) DESC, value COLLATE "C") AS place,
           value AS search, sum(value_count)::bigint AS searches
      FROM tally.value_counts
     WHERE datapoint = 'course.search'
     GROUP BY value
    HAVING sum(value_count) > 0
    """,
)

UNITS = ("hour", "day")
VIEWS = ("top_course_searches", "visits_per_club_day", "clicks_per_post", "event_aggregates", "event")
TABLES = (
    "value_counts", "forward_positions", "txn_log", "event_day_cells_rolled", "event_day_cells", "event_hour_cells_rolled",
    "event_hour_cells", "event_hour_cells_touched", "event_minute_cells_blocks", "event_minute_cells", "events",
)  # fmt: skip
READABLE = (
    "event", "events", "event_aggregates", "event_hour_cells", "event_day_cells", "event_hour_cells_touched",
    "event_hour_cells_rolled", "event_day_cells_rolled", "txn_log", "value_counts", "clicks_per_post", "visits_per_club_day",
    "top_course_searches",
)  # fmt: skip
FORGET = """
    DELETE FROM tally.sink_offsets
     WHERE topic IN ('events.v1', 'tally-event-blocks-changelog', 'tally-event-timeline-changelog')
"""
PERSONAL = "(personal data) "
STORED_ON = "UTC day on which the record of this row arrived in Kafka; retention goes by it"
DIMENSIONS = {
    "kind": "EVENT: one event of a product; TRANSACTION: one of Labs",
    "product": "product that sent it",
    "datapoint": "what it is about: the type of an event, the key of a datapoint",
    "event_count": "number of datapoints; an EVENT has one",
}
SLICED = DIMENSIONS | {"product": "product that sent it; NULL: all", "datapoint": "what it is about; NULL: all"}

COMMENTS: dict[str, tuple[str, dict[str, str]]] = {
    "events": (
        PERSONAL + "one row a datapoint; the rows of a submission are all here or none is",
        {
            "user_id": PERSONAL + "the user; NULL where nobody is known",
            "occurred_at": PERSONAL + "when it happened, by the submission itself, to the microsecond",
            "kind": PERSONAL + DIMENSIONS["kind"],
            "product": PERSONAL + DIMENSIONS["product"],
            "event_id": PERSONAL + "id of the submission, by its sender",
            "datapoint": PERSONAL + DIMENSIONS["datapoint"],
            "value": PERSONAL + "value of the datapoint, as received; empty for an EVENT",
            "source": PERSONAL + "who sent it: name of the API key, or sub of the token; empty without",
            "properties": PERSONAL + "JSON of the submission, as received; on its first row only, NULL on the others",
            "source_partition": "partition of the source topic that holds the submission",
            "source_offset": "offset of the submission in that partition",
            "position": "number of the datapoint in the submission, from 0",
            "stored_on": STORED_ON,
        },
    ),
    "event": (
        PERSONAL + "datapoints of Labs, by the names of its first engine",
        {
            "id": "number that stays the same: partition, offset and position in 10, 39 and 14 bits",
            "product": "name of the product",
            "pennkey": PERSONAL + "the user; NULL where nobody is known",
            "datapoint": PERSONAL + "key of the datapoint",
            "value": PERSONAL + "its value, as received",
            "timestamp": PERSONAL + "when it happened, UTC",
        },
    ),
    "event_minute_cells": (
        "datapoints counted by minute and dimensions, per partition and bucket; read them through event_aggregates",
        {
            "stored_on": STORED_ON,
            "source_partition": "partition of the source topic",
            "bucket": "number of the run of 4096 source offsets",
            "minute_at": "start of the minute in which it happened, by its own time",
            **DIMENSIONS,
        },
    ),
    "event_minute_cells_blocks": (
        "which version of each block lies in event_minute_cells: of one block the greatest through wins",
        {
            "source_partition": "partition of the source topic",
            "bucket": "number of the run of 4096 source offsets",
            "minute_at": "start of the event minute",
            "through": "last source offset that this version has counted",
            "stored_on": "day of event_minute_cells under which the rows of this version lie",
        },
    ),
    "event_aggregates": (
        "datapoints by minute and dimensions, complete up to sink_offsets",
        {"minute_at": "start of the minute in which it happened, by its own time", **DIMENSIONS},
    ),
    "event_hour_cells_touched": (
        "how often the minutes of an hour were written, in the transactions of the rows",
        {
            "stored_on": "day of event_minute_cells under which the rows lie",
            "hour_at": "start of the hour, by event time",
            "source_partition": "partition of the source topic; so that two sinks never wait for each other",
            "version": "number of transactions that touched the hour",
            "touched_at": "when the last one began",
        },
    ),
    "txn_log": (
        PERSONAL + "what became of each submission; without what it held",
        {
            "txn_id": PERSONAL + "id of the submission, by its sender",
            "state": "PENDING: Kafka has it; DONE: its rows are here; FAILED: it has none, and error says why",
            "attempts": "how often it was submitted; those after the first are duplicates",
            "error": "reason and detail, without the payload",
            "created_at": "when Kafka took the first one",
            "updated_at": "when this row last changed",
            "kind": DIMENSIONS["kind"],
            "product": DIMENSIONS["product"],
            "user_id": PERSONAL + "the user; NULL where nobody is known",
            "datapoints": "number of its datapoints",
            "source_partition": "partition of the source topic",
            "source_offset": "offset of the submission that counts",
            "last_offset": "offset of the last attempt; -1 before the first is read",
            "identity": "digest of user and id",
        },
    ),
    "forward_positions": (
        "how far the rows of submissions are written, and up to where they may be: see sinks.events_forward",
        {
            "topic": "changelog of the rows",
            "partition": "its partition",
            "rows_through": "greatest source offset whose rows are written",
            "window_at": "last window that was opened; NULL: there was none yet",
            "forward_to": "offset of topic before which everything may be written",
            "opened_at": "when that was last decided",
            "asked_at": "when somebody last asked for everything now",
        },
    ),
    "value_counts": (
        "how often each value of the datapoints that reports ask for was seen, by day",
        {
            "datapoint": "key of the datapoint: post.click, club.visit or course.search",
            "day": "UTC day on which it happened, by its own time",
            "value": "value of the datapoint",
            "source_partition": "partition of the source topic; so that two sinks never wait for each other",
            "value_count": "number of datapoints",
            "updated_on": "UTC day on which this row last changed; retention goes by it",
            "value_digest": "digest of the value, which may be too long for an index",
        },
    ),
    "clicks_per_post": ("clicks on each post", {"post": "value of post.click", "clicks": "number of clicks"}),
    "visits_per_club_day": (
        "visits of each club by UTC day",
        {"club": "value of club.visit", "day": "UTC day of the visit, by its own time", "visits": "number of visits"},
    ),
    "top_course_searches": (
        "course searches, the most popular first; equal ones by name",
        {"place": "1 for the most popular", "search": "value of course.search", "searches": "number of searches"},
    ),
}


def comments() -> dict[str, tuple[str, dict[str, str]]]:
    """Return the meaning of each table and view, and of its columns."""
    found = dict(COMMENTS)
    for unit in UNITS:
        at = {f"{unit}_at": f"start of the {unit} (UTC) in which it happened, by its own time"}
        found[f"event_{unit}_cells"] = (
            f"datapoints by {unit} and slice, rolled up from minutes; whole only where event_{unit}_cells_rolled says so",
            {
                "stored_on": "UTC day on which they arrived in Kafka, as in event_minute_cells",
                **at,
                "slice": "which dimensions these cells are kept by: bit 0 product, bit 1 datapoint; kind always is",
                **SLICED,
            },
        )
        found[f"event_{unit}_cells_rolled"] = (
            f"which state of the minutes event_{unit}_cells shows",
            {
                "stored_on": "UTC day of arrival, as in the cells",
                **at,
                "version": "sum of the versions in event_hour_cells_touched; 0: their minutes are no longer kept",
                "rolled_at": "when the cells were made",
            },
        )
    return found


def upgrade() -> None:
    """Make everything."""
    for statement in (*EVENTS, *CELLS, *LOG, *REPORTS):
        op.execute(statement)
    for unit in UNITS:
        for statement in (ROLLED_CELLS, ROLLED_INDEX, ROLLED):
            op.execute(statement.format(unit=unit))
    op.execute("GRANT SELECT ON " + ", ".join(f"tally.{name}" for name in READABLE) + " TO tally_reader")
    for table, (text, columns) in comments().items():
        kind = "VIEW" if table in VIEWS else "TABLE"
        op.execute(f"COMMENT ON {kind} tally.{table} IS '{text}'".replace(":", r"\:"))
        for column, meaning in columns.items():
            op.execute(f"COMMENT ON COLUMN tally.{table}.{column} IS '{meaning}'".replace(":", r"\:"))


def downgrade() -> None:
    """Drop everything, and forget how far it was written: after another way up Kafka is read from its beginning again."""
    for view in VIEWS:
        op.execute(f"DROP VIEW tally.{view}")
    for table in TABLES:
        op.execute(f"DROP TABLE tally.{table}")
    op.execute(FORGET)
