"""Run the migrations on the connection that `sinks.migrate` gives, each in a transaction of its own."""

from __future__ import annotations

from alembic import context


def run_migrations() -> None:
    """Do what Alembic was asked for."""
    attributes = context.config.attributes
    context.configure(
        connection=attributes["connection"],
        version_table=attributes["version_table"],
        version_table_schema=attributes["schema"],
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()


if hasattr(context, "config"):  # Alembic loads this file to run it; a collector of doctests only looks at it.
    run_migrations()
