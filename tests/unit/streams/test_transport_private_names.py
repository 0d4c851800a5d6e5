"""What we override and call is private to Faust and aiokafka: these tests fail first when a release moves it."""

from __future__ import annotations

import inspect
from importlib.metadata import requires, version
from pathlib import Path
from typing import Any

import pytest
from aiokafka.consumer import consumer as aiokafka_consumer
from aiokafka.consumer import fetcher as aiokafka_fetcher
from faust.agents.agent import Agent
from faust.app.base import App as FaustApp
from faust.stores import rocksdb
from faust.tables.manager import TableManager
from faust.transport.consumer import Consumer as FaustConsumer
from faust.transport.drivers import aiokafka as driver

from streams import app, runs, transport
from tables.store import PartitionDatabases, Store

ROOT = Path(__file__).parents[3]
STOCK_READER = runs.RunRecords.__mro__[1]

OVERRIDDEN: list[tuple[type[Any], str, list[str]]] = [
    (FaustConsumer, "getmany", ["self", "timeout"]),
    (FaustConsumer, "_wait_next_records", ["self", "timeout"]),
    (driver.Consumer, "_getmany", ["self", "active_partitions", "timeout"]),
    (FaustConsumer, "resume_flow", ["self"]),
    (FaustConsumer, "perform_seek", ["self"]),
    (FaustConsumer, "on_partitions_revoked", ["self", "revoked"]),
    (FaustConsumer, "ack", ["self", "message"]),
    (FaustConsumer, "_new_offset", ["self", "tp"]),
    (FaustConsumer, "_add_gap", ["self", "tp", "offset_from", "offset_to"]),
    (driver.Producer, "_settings_extra", ["self"]),
    (STOCK_READER, "_unpack_records", ["self"]),
    (rocksdb.Store, "apply_changelog_batch", ["self", "batch", "to_key", "to_value"]),
    (rocksdb.RocksDBOptions, "open", ["self", "path", "read_only"]),
    (rocksdb.Store, "_open_for_partition", ["self", "partition"]),
    (rocksdb.Store, "on_recovery_completed", ["self", "active_tps", "standby_tps"]),
    (TableManager, "on_start", ["self"]),
    (TableManager, "on_rebalance", ["self", "assigned", "revoked", "newly_assigned", "generation_id"]),
    (TableManager, "on_actives_ready", ["self"]),
    (FaustApp, "on_rebalance_end", ["self"]),
]
CALLED: list[tuple[Any, str, list[str]]] = [
    (driver.Consumer, "seek_wait", ["self", "partitions"]),
    (driver.Consumer, "earliest_offsets", ["self", "partitions"]),
    (driver.Consumer, "seek_to_committed", ["self"]),
    (driver.Consumer, "highwater", ["self", "tp"]),
    (driver.Consumer, "assignment", ["self"]),
    (driver.Consumer, "_to_message", ["self", "tp", "record"]),
    (driver.Consumer, "_get_active_partitions", ["self"]),
    (driver.Producer, "_ensure_producer", ["self"]),
    (STOCK_READER, "_consume_aborted_up_to", ["self", "batch_offset"]),
    (STOCK_READER, "_contains_abort_marker", ["self", "next_batch"]),
    (rocksdb.Store, "_db_for_partition", ["self", "partition"]),
    (rocksdb.Store, "persisted_offset", ["self", "tp"]),
    (rocksdb.Store, "partition_path", ["self", "partition"]),
    (TableManager, "_update_channels", ["self"]),
    (Agent, "get_topic_names", ["self"]),
]


@pytest.mark.parametrize(("owner", "name", "parameters"), [*OVERRIDDEN, *CALLED])
def test_a_private_method_has_the_signature_we_rely_on(owner: Any, name: str, parameters: list[str]) -> None:
    assert list(inspect.signature(getattr(owner, name)).parameters) == parameters


@pytest.mark.parametrize(("owner", "name", "parameters"), OVERRIDDEN)
def test_ours_takes_what_theirs_takes(owner: Any, name: str, parameters: list[str]) -> None:
    ours = next(
        found
        for found in (transport.Consumer, transport.Producer, runs.RunRecords, Store, PartitionDatabases, app.Tables, app.App)
        if issubclass(found, owner)
    )
    assert name in vars(ours), f"{ours.__name__}.{name} overrides nothing"
    assert list(inspect.signature(getattr(ours, name)).parameters) == parameters


def test_faust_still_reads_the_offsets_that_we_blind() -> None:
    """`ReadOffsets` works because the drain takes `__getitem__` of whatever dict is there."""
    source = inspect.getsource(FaustConsumer._drain_messages)
    assert "get_read_offset = self._read_offset.__getitem__" in source


def test_faust_polls_for_as_many_records_as_its_consumer_says() -> None:
    """We raise it while changelogs are read."""
    assert "max_records=_consumer._max_poll_records" in inspect.getsource(driver.AIOKafkaConsumerThread.getmany)


@pytest.mark.parametrize("name", ["_acked", "_unacked_messages", "_committed_offset", "_read_offset", "_buffered_partitions"])
def test_the_consumers_memory_has_the_names_we_use(name: str) -> None:
    assert (
        f"self.{name} " in inspect.getsource(FaustConsumer)
        or name in FaustConsumer.__annotations__
        or hasattr(FaustConsumer, name)
    )


def test_aiokafkas_reader_keeps_its_state_under_the_names_we_use() -> None:
    source = inspect.getsource(STOCK_READER.__init__)
    for name in ("_tp", "_records", "_check_crcs", "_aborted_producers", "next_fetch_offset", "_records_iterator"):
        assert f"self.{name} =" in source
    assert "self._records_iterator = self._unpack_records()" in source


def test_aiokafka_looks_for_its_reader_and_fetcher_by_module_name() -> None:
    """We replace both there."""
    assert "PartitionRecords(" in inspect.getsource(aiokafka_fetcher.Fetcher._proc_fetch_request)
    assert "Fetcher(" in inspect.getsource(aiokafka_consumer.AIOKafkaConsumer.start)


@pytest.mark.parametrize("argument", ["fetch_max_wait_ms", "prefetch_backoff", "isolation_level"])
def test_aiokafkas_fetcher_takes_what_we_set(argument: str) -> None:
    stock = runs.Fetcher.__mro__[1]
    assert argument in inspect.signature(stock.__init__).parameters


def test_faust_is_pinned_to_the_release_whose_inside_we_know() -> None:
    assert version("faust-streaming").startswith("0.15.")
    pyproject = (ROOT / "pyproject.toml").read_text()
    assert "faust-streaming" in pyproject and "0.15." in next(
        line for line in pyproject.splitlines() if "faust-streaming" in line
    )
    assert requires("faust-streaming")
