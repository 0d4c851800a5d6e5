"""Make the table of what was done by commands; rows are added to it, and none is changed or removed.

Never edited once merged: a change is another file.
"""

from __future__ import annotations

from alembic import op

revision = "2026_11_23_audit"
down_revision = "2026_11_23_rollups"
branch_labels = None
depends_on = None

TABLE = """
    CREATE TABLE tally.audit (
        id          uuid        NOT NULL DEFAULT gen_random_uuid() PRIMARY KEY,
        recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        action      text        NOT NULL,
        stage       text        NOT NULL CHECK (stage IN ('begun', 'done', 'failed')),
        begun_id    uuid        UNIQUE REFERENCES tally.audit (id),
        who         text        NOT NULL,
        os_user     text        NOT NULL,
        role        text        NOT NULL DEFAULT session_user,
        detail      jsonb       NOT NULL
    )
"""
REFUSE = """
    CREATE FUNCTION tally.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'rows of tally.% are never changed or removed', TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
    END
    $$
"""
TRIGGER = """
    CREATE TRIGGER audit_is_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON tally.audit
        FOR EACH STATEMENT EXECUTE FUNCTION tally.refuse_change()
"""
# Else a superuser's `session_replication_role = replica` would go past it.
ALWAYS = "ALTER TABLE tally.audit ENABLE ALWAYS TRIGGER audit_is_append_only"

PERSONAL = "(personal data) "
TEXT = PERSONAL + "what was done by commands, two rows each; append only"
COLUMNS = {
    "id": "identity of the row",
    "recorded_at": "when it was written",
    "action": "what was done; a closed set, see docs/security.md",
    "stage": "begun, written before anything is done; done or failed; a beginning without an end was killed",
    "begun_id": "row of the beginning; NULL of a beginning, and of what was noted in its own transaction",
    "who": PERSONAL + "who did it, as audit.who says, else the user of the operating system",
    "os_user": PERSONAL + "user of the operating system that ran the command",
    "role": "role of Postgres that wrote the row",
    "detail": "what was done and to how much; users by digest, no payload",
}


def upgrade() -> None:
    """Make the table and what keeps its rows."""
    for statement in (TABLE, REFUSE, TRIGGER, ALWAYS):
        op.execute(statement)
    op.execute(f"COMMENT ON TABLE tally.audit IS '{TEXT}'")
    for column, meaning in COLUMNS.items():
        op.execute(f"COMMENT ON COLUMN tally.audit.{column} IS '{meaning}'")


def downgrade() -> None:
    """Drop the table with its rows: only who owns it can."""
    op.execute("DROP TABLE tally.audit")
    op.execute("DROP FUNCTION tally.refuse_change()")
