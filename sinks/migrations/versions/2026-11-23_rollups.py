"""Make the rollups of hours and days, and what says which of them are whole. Hours that are there already count as touched.

Never edited once merged: a change is another file.
"""

from __future__ import annotations

from alembic import op

revision = "2026_11_23_rollups"
down_revision = "2026_11_22_first_tables"
branch_labels = None
depends_on = None

CELLS = """
    CREATE TABLE tally.{unit}_cells (
        stored_on   date        NOT NULL,
        {unit}_at   timestamptz NOT NULL,
        slice       smallint    NOT NULL,
        action      text        NOT NULL,
        origin      text,
        brand_id    text,
        category_id text,
        event_count bigint      NOT NULL,
        price_sum   bigint      NOT NULL
    )
"""
# A question knows which days of arrival have something of an hour, so this one index answers and removes.
INDEX = """
    CREATE INDEX {unit}_cells_slice
        ON tally.{unit}_cells (stored_on, {unit}_at, slice, action, origin, brand_id, category_id)
"""
ROLLED = """
    CREATE TABLE tally.{unit}_cells_rolled (
        stored_on date        NOT NULL,
        {unit}_at timestamptz NOT NULL,
        version   bigint      NOT NULL,
        rolled_at timestamptz NOT NULL,
        PRIMARY KEY (stored_on, {unit}_at)
    ) WITH (fillfactor = 80)
"""
# Every transaction of the sinks updates the rows of the present hour: room on the page keeps that cheap.
TOUCHED = """
    CREATE TABLE tally.hour_cells_touched (
        stored_on        date        NOT NULL,
        hour_at          timestamptz NOT NULL,
        source_partition integer     NOT NULL,
        version          bigint      NOT NULL,
        touched_at       timestamptz NOT NULL,
        PRIMARY KEY (stored_on, hour_at, source_partition)
    ) WITH (fillfactor = 50)
"""
TOUCH_ALL = """
    INSERT INTO tally.hour_cells_touched (stored_on, hour_at, source_partition, version, touched_at)
    SELECT stored_on, date_trunc('hour', minute_at, 'UTC'), source_partition, 1, now()
      FROM tally.minute_cells_blocks
     GROUP BY 1, 2, 3
"""

READABLE = "tally.hour_cells, tally.day_cells, tally.hour_cells_touched, tally.hour_cells_rolled, tally.day_cells_rolled"
UNITS = ("hour", "day")

CELL_COLUMNS = {
    "stored_on": "UTC day on which these events arrived in Kafka, as in minute_cells",
    "slice": "which dimensions these cells are kept by: bit 0 origin, bit 1 brand_id, bit 2 category_id; action always is",
    "action": "what the user did: VIEW or BUY",
    "origin": "campaign that brought the user; NULL: all of them",
    "brand_id": "brand of the product; NULL: all of them",
    "category_id": "category of the product; NULL: all of them",
    "event_count": "number of events",
    "price_sum": "sum of the prices of the events",
}
ROLLED_COLUMNS = {
    "stored_on": "UTC day of arrival, as in the cells",
    "version": "sum of the versions in hour_cells_touched that the cells were made of; 0: their minutes are no longer kept",
    "rolled_at": "when the cells were made",
}


def comments() -> dict[str, tuple[str, dict[str, str]]]:
    """Return the meaning of each table and its columns."""
    found = {
        "hour_cells_touched": (
            "how often the minutes of an hour were written, in the transactions of the rows",
            {
                "stored_on": "day of minute_cells under which the rows lie",
                "hour_at": "start of the hour, by event time",
                "source_partition": "partition of the source topic; so that two sinks never wait for each other",
                "version": "number of transactions that touched the hour",
                "touched_at": "when the last one began",
            },
        )
    }
    for unit in UNITS:
        at = {f"{unit}_at": f"start of the {unit} (UTC) in which the events happened, by their own time"}
        found[f"{unit}_cells"] = (
            f"events by {unit} and slice, rolled up from minutes; whole only where {unit}_cells_rolled says so",
            at | CELL_COLUMNS,
        )
        found[f"{unit}_cells_rolled"] = (
            f"which state of the minutes {unit}_cells shows; whole where version is the sum of those in hour_cells_touched",
            at | ROLLED_COLUMNS,
        )
    return found


def upgrade() -> None:
    """Make everything."""
    for unit in UNITS:
        for statement in (CELLS, INDEX, ROLLED):
            op.execute(statement.format(unit=unit))
    op.execute(TOUCHED)
    op.execute(TOUCH_ALL)
    op.execute(f"GRANT SELECT ON {READABLE} TO tally_reader")
    for table, (text, columns) in comments().items():
        op.execute(f"COMMENT ON TABLE tally.{table} IS '{text}'".replace(":", r"\:"))
        for column, meaning in columns.items():
            op.execute(f"COMMENT ON COLUMN tally.{table}.{column} IS '{meaning}'".replace(":", r"\:"))


def downgrade() -> None:
    """Drop everything."""
    for unit in UNITS:
        op.execute(f"DROP TABLE tally.{unit}_cells")
        op.execute(f"DROP TABLE tally.{unit}_cells_rolled")
    op.execute("DROP TABLE tally.hour_cells_touched")
