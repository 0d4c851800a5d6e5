"""Let the indexes of hours and days hold their texts by hash: an index takes 2,704 bytes a row, two texts may have 4,096.

Never edited once merged: a change is another file.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from alembic import op

revision = "2026_11_23_slices_by_hash"
down_revision = "2026_11_23_events"
branch_labels = None
depends_on = None

UNITS = ("hour", "day")
KINDS = {"": "action", "event_": "kind"}
TEXTS = {"": ("origin", "brand_id", "category_id"), "event_": ("product", "datapoint")}
INDEXED_BEFORE = {"": TEXTS[""], "event_": ()}
# What was written meanwhile may be too long for the index of before: it then does without the texts.
BEFORE = """
DO $$
BEGIN
    CREATE INDEX {table}_slice ON tally.{table} ({columns});
EXCEPTION
    WHEN program_limit_exceeded THEN
        CREATE INDEX {table}_slice ON tally.{table} ({plain});
END
$$
"""


class Indexed(NamedTuple):
    """A table, and what its index has: without texts, with their hashes, and before this."""

    table: str
    plain: str
    hashed: str
    before: str


def indexes() -> Iterator[Indexed]:
    """Yield the tables with their columns."""
    for prefix, texts in TEXTS.items():
        for unit in UNITS:
            plain = f"stored_on, {unit}_at, slice, {KINDS[prefix]}"
            hashed = ", ".join([plain, *(f"hashtext({text})" for text in texts)])
            yield Indexed(f"{prefix}{unit}_cells", plain, hashed, ", ".join([plain, *INDEXED_BEFORE[prefix]]))


def upgrade() -> None:
    """Make the new ones first: that keeps nobody from reading, and taking the others away does."""
    for table, _, hashed, _ in indexes():
        op.execute(f"CREATE INDEX {table}_hash ON tally.{table} ({hashed})")
    for table, *_ in indexes():
        op.execute(f"DROP INDEX tally.{table}_slice")


def downgrade() -> None:
    """Make the indexes of before, as far as the texts allow."""
    for table, plain, _, before in indexes():
        op.execute(BEFORE.format(table=table, columns=before, plain=plain))
    for table, *_ in indexes():
        op.execute(f"DROP INDEX tally.{table}_hash")
