"""One test for each bug of faust-streaming that the transport and the app's settings work around; #n is its issue there."""

from __future__ import annotations

from pathlib import Path

import pytest
from faust.transport.consumer import Consumer as StockConsumer

from tests.support.scripted_consumer import CHANGELOG, SOURCE, ScriptedConsumer, a_consumer, a_run, acknowledge, an_app


@pytest.fixture
async def consumer(tmp_path: Path) -> ScriptedConsumer:
    return a_consumer(tmp_path)


async def test_606_an_unacknowledged_batch_at_the_committed_offset_is_not_skipped(consumer: ScriptedConsumer) -> None:
    """`_new_offset` passes over one message that sits exactly there: its events would never be counted."""
    await consumer.sought_to(SOURCE, committed=4096)
    await consumer.delivered(SOURCE, a_run(4096, 1))  # not acknowledged
    acknowledge(consumer, await consumer.delivered(SOURCE, a_run(4097, 9000)))
    assert consumer._new_offset(SOURCE) is None


async def test_606_nor_is_one_at_offset_0_where_nothing_was_committed(consumer: ScriptedConsumer) -> None:
    await consumer.sought_to()
    await consumer.delivered(SOURCE, a_run(0, 1))
    acknowledge(consumer, await consumer.delivered(SOURCE, a_run(1, 9000)))
    assert consumer._new_offset(SOURCE) is None


async def test_606_a_single_record_at_the_committed_offset_can_be_acknowledged(consumer: ScriptedConsumer) -> None:
    """A trickle right after a bucket's end: its last offset equals the commit, and must still count as progress."""
    await consumer.sought_to(SOURCE, committed=4096)
    acknowledge(consumer, await consumer.delivered(SOURCE, a_run(4096, 1)))
    assert consumer.acknowledged(SOURCE) == 4097


async def test_596_commits_go_on_after_a_batch_was_dropped(consumer: ScriptedConsumer) -> None:
    """In Faust the hole stays for good and commits of the partition stop; here a rewind fills it."""
    await consumer.sought_to()
    await consumer.delivered(SOURCE, a_run(0, 4096))  # dropped
    acknowledge(consumer, await consumer.delivered(SOURCE, a_run(4096, 4096)))
    await consumer.rewind(SOURCE)
    acknowledge(consumer, await consumer.delivered(SOURCE, a_run(0, 4096)))
    acknowledge(consumer, await consumer.delivered(SOURCE, a_run(4096, 4096)))
    await consumer.commit()
    assert consumer.commits[-1] == {SOURCE: 8192}


async def test_502_what_was_acknowledged_is_committed_before_the_partition_goes(consumer: ScriptedConsumer) -> None:
    """Faust forgets it first: every rebalance then reads it again."""
    await consumer.sought_to()
    acknowledge(consumer, await consumer.delivered(SOURCE, a_run(0, 5000)))
    await consumer.on_partitions_revoked({SOURCE})
    assert consumer.commits == [{SOURCE: 4096}]


async def test_402_stopping_does_not_wait_for_acknowledgments_that_never_come(consumer: ScriptedConsumer) -> None:
    """`wait_empty` waits for ever when one message stays unacknowledged; what is read again counts once anyway."""
    assert consumer.app.conf.stream_wait_empty is False
    await consumer.sought_to()
    (message,) = await consumer.delivered(SOURCE, a_run(0, 10))
    consumer._unacked_messages.add(message)
    await consumer.on_stop()
    assert message in consumer.unacked


async def test_402_a_message_of_an_older_epoch_does_not_stay_among_the_unacknowledged(consumer: ScriptedConsumer) -> None:
    await consumer.sought_to()
    (message,) = await consumer.delivered(SOURCE, a_run(0, 10))
    consumer._unacked_messages.add(message)
    await consumer.rewind(SOURCE)
    consumer.ack(message)
    assert message not in consumer.unacked


async def test_455_a_huge_gap_costs_no_memory(consumer: ScriptedConsumer) -> None:
    """Faust writes every missing offset into a list when it commits: out of memory on a large hole."""
    await consumer.sought_to()
    await consumer._add_gap(SOURCE, 0, 10**12)
    assert SOURCE not in consumer._gap
    acknowledge(consumer, await consumer.delivered(SOURCE, a_run(0, 10, base=10**12)))
    assert consumer._new_offset(SOURCE) == (10**12 + 10) // 4096 * 4096


async def test_455_other_topics_keep_fausts_own_gaps(consumer: ScriptedConsumer) -> None:
    await consumer._add_gap(CHANGELOG, 3, 5)
    assert len(consumer._gap[CHANGELOG]) == 1


async def test_651_a_lost_offset_is_looked_for_at_the_start(tmp_path: Path) -> None:
    """With `latest` an offset out of range jumps to the end: recovery hangs there, and events are passed over."""
    assert an_app(tmp_path).conf.consumer_auto_offset_reset == "earliest"


async def test_323_exactly_once_is_off(tmp_path: Path) -> None:
    """It loses offsets, crashes at rebalances, and its markers hang the recovery."""
    assert an_app(tmp_path).conf.processing_guarantee.name == "AT_LEAST_ONCE"


async def test_the_bugs_are_still_there(consumer: ScriptedConsumer) -> None:
    """When this fails, Faust has mended #606: look whether `_new_offset` is still needed as it is."""
    consumer._committed_offset[CHANGELOG] = 3
    consumer._acked[CHANGELOG] = [4, 5]  # 3 itself is not acknowledged
    assert StockConsumer._new_offset(consumer, CHANGELOG) == 6
