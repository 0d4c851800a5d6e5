"""Run the migrations on the connection that `sinks.migrate` gives, each in a transaction of its own that also notes it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from alembic import context
from alembic.runtime.migration import MigrationContext, MigrationInfo

from streams.audit import Action, Row, Stage, add_row, is_kept


def run_migrations() -> None:
    """Do what Alembic was asked for."""
    attributes = context.config.attributes
    context.configure(
        connection=attributes["connection"],
        version_table=attributes["version_table"],
        version_table_schema=attributes["schema"],
        transaction_per_migration=True,
        on_version_apply=note,
    )
    with context.begin_transaction():
        context.run_migrations()


def note(ctx: MigrationContext, step: MigrationInfo, heads: Collection[Any], run_args: Mapping[str, Any]) -> None:
    """Add a row about a migration, in its transaction; before there is a table of them, and after, there is none."""
    assert ctx.connection is not None
    connection: Any = ctx.connection.connection.driver_connection
    if is_kept(connection):
        detail = {"from": list(step.source_revision_ids), "to": list(step.destination_revision_ids)}
        add_row(connection, Row(Action.MIGRATE, Stage.DONE, detail, context.config.attributes["who"]))


if hasattr(context, "config"):  # Alembic loads this file to run it; a collector of doctests only looks at it.
    run_migrations()
