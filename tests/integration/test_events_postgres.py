"""Submissions on their way into a real Postgres: rows, the transaction log and reports, whatever stops or comes twice."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import Any

import msgspec
import psycopg
import pytest

from sinks.reports import CLICK
from sinks.rollups import Due, Rollups, roll_due
from stack.postgres import LocalPostgres
from streams.clock import SYSTEM_CLOCK
from streams.topics import EVENTS
from tables.blocks import BlockKey, Cells, encode_block, pack
from tables.profiles import Row, SpanKey, encode_kept
from tests.support.sinks_process import MINUTE, Changelogs, StartSinks, connected, select, until
from tests.support.submissions import (
    BLOCKS_TOPIC,
    ROW_CODEC,
    ROWS_TOPIC,
    Submitter,
    a_submission,
    log_of,
    row_of,
    stored,
)

PRODUCTS = (
    "OTHER", "MOBILE_IOS", "MOBILE_ANDROID", "MOBILE_BACKEND", "PORTAL", "PCR", "PDP", "PCA", "PCP", "OHQ", "CLUBS",
)  # fmt: skip
DONE = ("DONE", 1, None)
PENDING = ("PENDING", 1, None)


def all_in(changelogs: Changelogs, dsn: str) -> None:
    """Return when Postgres has applied everything that was sent."""
    until(lambda: changelogs.are_in(dsn), "applied")


def test_every_product_has_a_row_a_datapoint_by_its_name_and_in_utc(
    start_sinks: StartSinks, submitter: Submitter, changelogs: Changelogs, sinks_dsn: str
) -> None:
    """P1, P4: eleven transactions, eleven names; the time is UTC whatever zone the reader's session is in."""
    start_sinks()
    data = [("user.click", "1"), ("user.drag", "5")]
    submitter.carry([a_submission(name, data, product=name, time="2024-06-01T12:00:00.750Z") for name in PRODUCTS])
    submitter.carry([a_submission("native", [("page_view", "")], kind="EVENT", properties='{"a": [1, "x"]}')], partition=1)
    all_in(changelogs, sinks_dsn)
    with psycopg.connect(sinks_dsn, options="-c timezone=America/New_York") as connection:
        found = connection.execute(
            'SELECT product, pennkey, datapoint, value, "timestamp" FROM tally.event ORDER BY id'
        ).fetchall()
        ids = connection.execute("SELECT count(DISTINCT id) FROM tally.event").fetchone()
    at = datetime.fromisoformat("2024-06-01T12:00:00.750")
    assert found == [(name, "judtin", key, value, at) for name in PRODUCTS for key, value in data]
    assert ids == (2 * len(PRODUCTS),)
    native = select(sinks_dsn, "SELECT event_id, datapoint, value, properties ->> 'a' FROM tally.events WHERE kind = 'EVENT'")
    assert native == [("native", "page_view", "", '[1, "x"]')]
    assert set(log_of(sinks_dsn).values()) == {DONE}


def test_transaction_of_10_000_datapoints_is_one_copy(
    start_sinks: StartSinks, submitter: Submitter, changelogs: Changelogs, sinks_dsn: str
) -> None:
    """P5: one statement, counted by the sinks themselves."""
    sinks = start_sinks()
    data = [(f"key{number % 7}", str(number)) for number in range(10_000)]
    submitter.carry([a_submission("large", data)])
    all_in(changelogs, sinks_dsn)
    assert [(position, value) for _, _, position, _, _, value in stored(sinks_dsn)] == [
        (number, value) for number, (_, value) in enumerate(data)
    ]
    text = sinks.get("/metrics")[1]
    assert 'tally_sink_copy_rows_count{table="events"} 1.0' in text
    assert 'tally_sink_copy_rows_sum{table="events"} 10000.0' in text


def poisoned(raw: bytes, offset: int) -> Row:
    """Return the row of a submission with NUL in its second value: no schema lets that through, whoever writes it."""
    row = row_of(raw, offset)
    *kept, data = row.kept
    return row._replace(kept=(*kept, [data[0], {"key": "k", "value": "nul\0here"}, *data[1:]]))


def test_poisoned_transaction_is_left_out_whole_and_the_others_are_written(
    start_sinks: StartSinks, submitter: Submitter, changelogs: Changelogs, sinks_dsn: str
) -> None:
    """P6: a transaction is in Postgres whole or not at all; the poison is a dead letter with its reason, and FAILED (P12)."""
    start_sinks()
    raws = [a_submission(f"t{number}", [("a", "1"), ("b", "2"), ("c", "3")]) for number in range(40)]
    submitter.submit(raws)
    rows = [row_of(raw, offset) for offset, raw in enumerate(raws)]
    for offset in (7, 23):
        rows[offset] = poisoned(raws[offset], offset)
    rows[30] = rows[30]._replace(kept=(*rows[30].kept[:3], "{no json", rows[30].kept[4]))
    parts = [part for row in rows for part in ROW_CODEC.encode(row)]
    changelogs.send(ROWS_TOPIC, 0, [(SpanKey(0, 39).encode(), encode_kept(parts))])
    until(lambda: [state for state, *_ in log_of(sinks_dsn).values()].count("FAILED") == 3, "FAILED in the log")
    all_in(changelogs, sinks_dsn)
    assert Counter(offset for _, offset, *_ in stored(sinks_dsn)) == {
        offset: 3 for offset in range(40) if offset not in (7, 23, 30)
    }
    letters = select(sinks_dsn, "SELECT source_topic, source_offset, reason, record_value FROM tally.dead_letters ORDER BY 2")
    assert [letter[:3] for letter in letters] == [(EVENTS.topic, offset, "refused_by_postgres") for offset in (7, 23, 30)]
    assert msgspec.json.decode(letters[0][3])["data"][1]["value"] == "nul\0here"
    states = log_of(sinks_dsn)
    assert states["t7"] == ("FAILED", 1, "refused_by_postgres: 22021 CharacterNotInRepertoire")
    assert states["t30"][2].startswith("refused_by_postgres: 22P02")
    assert {states[f"t{number}"] for number in range(40) if number not in (7, 23, 30)} == {DONE}


def test_same_submission_again_is_one_set_of_rows_and_one_more_attempt(
    start_sinks: StartSinks, submitter: Submitter, changelogs: Changelogs, sinks_dsn: str
) -> None:
    """P14: the worker tells duplicates; the log has one row, DONE. The same datapoint twice in one transaction is two rows."""
    start_sinks()
    raw = a_submission("again", [("a", "1"), ("a", "1")])
    submitter.carry([raw, raw, a_submission("other"), raw], duplicates=[1, 3])
    all_in(changelogs, sinks_dsn)
    assert stored(sinks_dsn) == [
        (0, 0, 0, "again", "a", "1"),
        (0, 0, 1, "again", "a", "1"),
        (0, 2, 0, "other", "user.click", "1"),
    ]
    assert log_of(sinks_dsn) == {"again": ("DONE", 3, None), "other": DONE}


def everything(dsn: str) -> list[list[tuple[Any, ...]]]:
    """Return what the sinks have made of submissions, without the instants at which they did."""
    log = "txn_id, user_id, source_partition, source_offset, last_offset, state, attempts"
    counted = "datapoint, day, value, source_partition, value_count"
    return [
        stored(dsn),
        select(dsn, f"SELECT {log} FROM tally.txn_log ORDER BY 1"),
        select(dsn, f"SELECT {counted} FROM tally.value_counts WHERE value_count <> 0 ORDER BY 1, 2, 3, 4"),
        select(dsn, "SELECT partition, rows_through FROM tally.forward_positions ORDER BY 1"),
    ]


def test_second_delivery_in_other_pieces_changes_nothing(
    start_sinks: StartSinks, submitter: Submitter, changelogs: Changelogs, sinks_dsn: str
) -> None:
    """P14: offsets set back, and a worker that cuts its spans otherwise: rows, log and reports are the same."""
    raws = [a_submission(f"t{number % 50}", [(CLICK, f"p{number % 3}")]) for number in range(60)]
    base = submitter.carry(raws, duplicates=range(50, 60))
    sinks = start_sinks()
    all_in(changelogs, sinks_dsn)
    before = everything(sinks_dsn)
    assert [attempts for *_, attempts in before[1]].count(2) == 10
    sinks.terminate()
    with psycopg.connect(sinks_dsn) as connection:
        connection.execute("DELETE FROM tally.sink_offsets")
    for first in range(0, 60, 7):
        submitter.count(raws[first : first + 7], base + first, duplicates=range(50, 60))
    start_sinks()
    all_in(changelogs, sinks_dsn)
    assert everything(sinks_dsn) == before


HOSTILE = {
    "apostrophe": "O'Brien",
    "quotes": '"x" and \\"y\\"',
    "emoji": "👩‍👩‍👧‍👦 ✔️ \U0001f4a9",
    "lines": "a\r\nb\tc\v\x85\u2028d",
    "copy": "\\N \\. \\\\ \\t",
    "controls": "\x01\x7f\x1b[31m",
    "python": "{'a': None}",
    "longest": "ü" * 8_192,
    "empty": "",
}


def test_hostile_values_are_stored_byte_for_byte(
    start_sinks: StartSinks, submitter: Submitter, changelogs: Changelogs, sinks_dsn: str
) -> None:
    """P15: what the door lets in comes out as it went in; in ids, users, products, sources and keys too."""
    start_sinks()
    submitter.carry([a_submission("values", HOSTILE.items())])
    texts = [text[:512] for text in HOSTILE.values() if text]
    properties = msgspec.json.encode({text: text for text in texts}).decode()
    submitter.carry(
        [a_submission(text, [(text, text)], user=text, product=text, source=text, properties=properties) for text in texts],
        partition=1,
    )
    all_in(changelogs, sinks_dsn)
    assert {key: value for *_, id_, key, value in stored(sinks_dsn) if id_ == "values"} == HOSTILE
    columns = "event_id, user_id, product, source, datapoint, value, properties::text"
    found = select(sinks_dsn, f"SELECT {columns} FROM tally.events WHERE source_partition = 1 ORDER BY source_offset")
    assert found == [(*[text] * 6, properties) for text in texts]
    assert {log_of(sinks_dsn)[text] for text in texts} == {DONE}


def test_all_rows_come_exactly_once_and_in_order_after_an_outage_of_postgres(
    start_sinks: StartSinks, submitter: Submitter, changelogs: Changelogs, sinks_dsn: str, postgres: LocalPostgres
) -> None:
    """P13: a product's transactions lie in one partition, in the order in which they came."""
    start_sinks(TALLY_SINKS_BATCH_ROWS_MAX="1000")
    products = {0: ("PCR", "PDP"), 1: ("OHQ",)}
    sent: dict[str, list[str]] = {name: [] for names in products.values() for name in names}

    def carry(first: int) -> None:
        for partition, names in products.items():
            chosen = [(names[number % len(names)], f"{first + number}") for number in range(300)]
            submitter.carry([a_submission(id_, product=name) for name, id_ in chosen], partition=partition)
            for name, id_ in chosen:
                sent[name].append(id_)

    carry(0)
    until(lambda: bool(stored(sinks_dsn)), "some are written")
    postgres.kill()
    try:
        carry(1_000)
    finally:
        postgres.start()
    carry(2_000)
    all_in(changelogs, sinks_dsn)
    for name, ids in sent.items():
        statement = "SELECT event_id FROM tally.events WHERE product = %s ORDER BY source_partition, source_offset"
        assert [id_ for (id_,) in select(sinks_dsn, statement, name)] == ids
    assert {state for state, *_ in log_of(sinks_dsn).values()} == {"DONE"}


def test_cells_are_counted_by_kind_product_and_datapoint(
    start_sinks: StartSinks, changelogs: Changelogs, sinks_dsn: str
) -> None:
    """P18: aggregates of a stream without sums, by minute; hours and days are rolled up from them in every slice."""
    start_sinks()
    for partition in (0, 1):
        cells: Cells = {("TRANSACTION", "PCR", "a\tb"): pack(3), ("EVENT", "web", "page_view"): pack(2)}
        for through, factor in ((9, 1), (4_095, 2)):
            block = encode_block({key: factor * value for key, value in cells.items()}, sums=0)
            changelogs.send(BLOCKS_TOPIC, partition, [(BlockKey(MINUTE, 0, through).encode(), block)])
    all_in(changelogs, sinks_dsn)
    found = select(sinks_dsn, "SELECT kind, product, datapoint, event_count FROM tally.event_aggregates ORDER BY 1")
    assert found == [("EVENT", "web", "page_view", 8), ("TRANSACTION", "PCR", "a\tb", 12)]
    with connected(sinks_dsn) as connection:
        roll_due(Rollups(EVENTS), connection, Due(SYSTEM_CLOCK.now_ms() / 1000 + 1, 0.0))
    for unit in ("hour", "day"):
        columns = "slice, kind, product, datapoint, event_count"
        rolled = select(sinks_dsn, f"SELECT {columns} FROM tally.event_{unit}_cells WHERE kind = 'EVENT' ORDER BY slice")
        assert rolled == [
            (0, "EVENT", None, None, 8),
            (1, "EVENT", "web", None, 8),
            (2, "EVENT", None, "page_view", 8),
            (3, "EVENT", "web", "page_view", 8),
        ]


@pytest.mark.parametrize("depth", [30_000])
def test_deeply_nested_properties_are_put_aside_and_stop_nobody(
    start_sinks: StartSinks, submitter: Submitter, changelogs: Changelogs, sinks_dsn: str, depth: int
) -> None:
    """P6: Postgres says that its stack is too small for them, which is the row's fault and not the world's."""
    start_sinks()
    submitter.carry([a_submission("deep", properties="[" * depth + "]" * depth), a_submission("flat")])
    until(
        lambda: len(log_of(sinks_dsn)) == 2 and "PENDING" not in {state for state, *_ in log_of(sinks_dsn).values()}, "settled"
    )
    assert [id_ for *_, id_, _, _ in stored(sinks_dsn)] in (["flat"], ["deep", "flat"])
    assert log_of(sinks_dsn)["flat"] == DONE
