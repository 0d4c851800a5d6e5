"""Minute aggregates by Quix Streams: a stateful update, RocksDB with a changelog, at least once; its own defaults.

The state is asked for under one key for all records: each partition counts into its own cells, as Tally's blocks do. Its
`group_by` would write every event to Kafka once more.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import orjson  # type: ignore[import-not-found]
from quixstreams import Application, State  # type: ignore[import-not-found]
from quixstreams.models import Deserializer  # type: ignore[import-not-found]
from quixstreams.state.rocksdb import RocksDBStorePartition  # type: ignore[import-not-found]

from bench.peers.report import Report, await_end

MINUTE_CHARACTERS = len("2022-03-01T00:00")


class OneKey(Deserializer):
    """Reads the same key from every record."""

    def __call__(self, value: bytes, ctx: Any) -> bytes:
        """Return it."""
        return b""


def main() -> None:
    """Count until standard input ends, and report what the state on disk holds then."""
    home = Path(os.environ["PEER_HOME"])
    report = Report(home)
    report.keep_telling()
    app = Application(
        broker_address=os.environ["PEER_SERVERS"],
        consumer_group="quix-streams",
        auto_offset_reset="earliest",
        state_dir=home / "state",
        loglevel="WARNING",
    )

    def count(tag: dict[str, Any], state: State) -> None:
        cell = cell_of(tag)
        number, total = state.get(cell) or (0, 0)
        state.set(cell, (number + 1, total + tag["product_info"]["price"]))
        report.counted += 1

    tags = app.topic(os.environ["PEER_TOPIC"], value_deserializer="json", key_deserializer=OneKey())
    app.dataframe(tags).update(count, stateful=True)
    threading.Thread(target=stop_at_end, args=(app,), daemon=True).start()
    app.run()
    add_all(home / "state", report)
    report.write_totals()


def cell_of(tag: dict[str, Any]) -> str:
    """Return the minute and the dimensions that an event is counted under."""
    product = tag["product_info"]
    return "|".join(
        (tag["time"][:MINUTE_CHARACTERS], tag["action"], tag["origin"], product["brand_id"], product["category_id"])
    )


def stop_at_end(app: Application) -> None:
    """Stop the program in order, last commit included, when standard input ends."""
    await_end()
    app.stop()


def add_all(state: Path, report: Report) -> None:
    """Report every cell of every partition."""
    for place in state.glob("*/default/*/*"):
        partition = RocksDBStorePartition(str(place))
        for key, value in partition.iter_items(b""):
            number, total = orjson.loads(value)
            report.add(orjson.loads(key), number, total)
        partition.close()


if __name__ == "__main__":
    main()
