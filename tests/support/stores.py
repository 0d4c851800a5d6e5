"""Open real stores in a temporary folder, without a broker, and fill them as recovery does."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from faust.types import TP

from streams.topics import USER_TAGS, Stream, changelog_of
from tables.registry import StreamTables, create_tables
from tables.store import Store
from tests.support.scripted_consumer import an_app

BLOCKS = changelog_of(USER_TAGS.blocks_table)
ROWS = changelog_of(USER_TAGS.rows_table)


def some_tables(home: Path, stream: Stream = USER_TAGS) -> StreamTables:
    """Return the product's tables of a stream on an app that is never started."""
    from streams.settings import load_settings

    app = an_app(home)
    app.conf.datadir.mkdir(parents=True, exist_ok=True)
    app.conf.appdir.mkdir(parents=True, exist_ok=True)
    app.conf.tabledir.mkdir(parents=True, exist_ok=True)
    return create_tables(app, stream, load_settings({"TALLY_KAFKA_SERVERS": "127.0.0.1:1", "TALLY_STACK_HOME": str(home)}))


def opened(store: Store, partition: int = 0) -> Any:
    """Return the database of a partition, opened as by an assignment."""
    return store._db_for_partition(partition)


def recovered(topic: str, offset: int, key: bytes, value: bytes | None, *, partition: int = 0, at_s: float = 0.0) -> Any:
    """Return a changelog record as recovery hands it to the store."""
    message = SimpleNamespace(
        topic=topic, partition=partition, offset=offset, key=key, value=value, timestamp=at_s, tp=TP(topic, partition)
    )
    return SimpleNamespace(message=message)


def recover(store: Store, *records: Any) -> None:
    """Apply records of assigned partitions as recovery does, in one buffer."""
    for record in records:
        opened(store, record.message.partition)
    store.apply_changelog_batch(list(records), to_key=lambda key: key, to_value=lambda value: value)


def content(store: Store, partition: int = 0) -> dict[bytes, bytes]:
    """Return every key and value of a partition."""
    return dict(store.scan(partition, b"", b"\xff" * 64))
