"""Labs' transactions in: the gateway as its own process, real Kafka behind it, and no Postgres anywhere."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from io import BytesIO
from typing import Any, NamedTuple

import aiohttp
import pytest

from gateway.analytics import NOT_ACKNOWLEDGED, STORED
from stack.kafka import LocalKafka
from streams.clock import SYSTEM_CLOCK
from streams.topics import EVENTS
from tests.support.analytics_door import DECODE, a_txn, body_of
from tests.support.gateway_process import Gateway, a_client, end_offsets, eventually, records_since, running_gateway
from tests.support.job import Door
from tests.support.labs_matrix import ACCEPTED, BAD_BODIES
from tests.support.oracle import read_topic

log = logging.getLogger(__name__)

REQUESTS, THREADS, DATAPOINTS = 1_000, 16, 10


class Kept(NamedTuple):
    """A transaction in the topic."""

    key: str
    partition: int
    event: Any


@pytest.fixture
async def client(gateway: Gateway) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of the gateway, which takes transactions by now."""
    async with a_client() as session:
        await eventually(takes_transactions(session, gateway))
        yield session


def takes_transactions(session: aiohttp.ClientSession, gateway: Gateway) -> Callable[[], Awaitable[bool]]:
    async def ask() -> bool:
        try:
            return (await post(session, gateway, body_of(pennkey="first")))[0] == 200
        except aiohttp.ClientError:
            return False

    return ask


async def post(
    session: aiohttp.ClientSession, gateway: Gateway, body: bytes, path: str = "/analytics/", **headers: str
) -> tuple[int, Any]:
    """Post a transaction; return status and decoded answer. Redirects are not followed."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    async with session.post(gateway.url(path), data=BytesIO(body), headers=sent, allow_redirects=False) as response:
        return response.status, await response.json()


def kept_of(servers: str, *users: str) -> list[Kept]:
    """Return the transactions of some users, in the order of their partitions."""
    found = ((record.key.decode(), record.partition, DECODE(record.value)[0]) for record in read_topic(servers, EVENTS.topic))
    return [Kept(*each) for each in found if each[2].user in users]


@pytest.mark.parametrize("path", ["/analytics", "/analytics/"])
async def test_both_spellings_store_and_answer_directly(
    gateway: Gateway, client: aiohttp.ClientSession, kafka_servers: str, path: str
) -> None:
    """P1: 200 and the exact message without a redirect; one record under the product's name, as a worker reads it."""
    user = f"p1 {path}"
    assert await post(client, gateway, body_of(pennkey=user), path) == (200, {"message": "Data stored successfully!"})
    ((key, _, event),) = kept_of(kafka_servers, user)
    assert (key, event.kind, event.product, event.time) == (
        "MOBILE_BACKEND",
        "TRANSACTION",
        "MOBILE_BACKEND",
        "2024-01-01T00:00:00.000Z",
    )
    assert [(each.key, each.value) for each in event.data] == [(each["key"], each["value"]) for each in a_txn()["data"]]


async def test_accepted_transactions_are_in_the_topic_as_sent(
    gateway: Gateway, client: aiohttp.ClientSession, kafka_servers: str
) -> None:
    """P1, P3, P15: all that the specification accepts, hostile texts too, one record each in the order of sending."""
    start = end_offsets(kafka_servers, EVENTS.topic)
    for name, changes in ACCEPTED.items():
        assert (await post(client, gateway, body_of(**changes)))[0] == 200, name
    events = [DECODE(value or b"")[0] for _, _, value in records_since(kafka_servers, start)]
    for event, sent in zip(events, (a_txn(**changes) for changes in ACCEPTED.values()), strict=True):
        assert event.user == (sent.get("pennkey") or "")
        assert [(each.key, each.value) for each in event.data] == [(each["key"], each["value"]) for each in sent["data"]]


async def test_refused_transactions_are_not_in_the_topic(
    gateway: Gateway, client: aiohttp.ClientSession, kafka_servers: str
) -> None:
    """P3, P15: each refusal is 400, or 413 for the size, with its detail, and Kafka has nothing of it."""
    start = end_offsets(kafka_servers, EVENTS.topic)
    for name, body in BAD_BODIES.items():
        status, answered = await post(client, gateway, body)
        assert (status, set(answered)) == (400, {"detail"}), name
    too_large = body_of(data=[{"key": "a", "value": "x" * 8_000}] * 500)
    status, answered = await post(client, gateway, too_large)
    assert (status, set(answered)) == (413, {"detail"})
    assert end_offsets(kafka_servers, EVENTS.topic) == start


async def test_all_products_arrive_each_in_its_own_order(
    gateway: Gateway, client: aiohttp.ClientSession, kafka_servers: str
) -> None:
    """P4, P13: eleven names; what a product sends one after another lies so in one partition."""
    for number in range(55):
        status, _ = await post(client, gateway, body_of(product=number % 11, pennkey="p4", timestamp=number))
        assert status == 200
    by_product: dict[str, list[tuple[int, str]]] = {}
    for kept in kept_of(kafka_servers, "p4"):
        assert kept.key == kept.event.product
        by_product.setdefault(kept.key, []).append((kept.partition, kept.event.time))
    assert len(by_product) == 11
    for found in by_product.values():
        assert len(found) == 5
        assert len({partition for partition, _ in found}) == 1
        assert found == sorted(found)


@pytest.mark.parametrize("value", ["1", "x" * 358], ids=["short values", "the largest body"])
async def test_ten_thousand_datapoints_are_one_record(
    gateway: Gateway, client: aiohttp.ClientSession, kafka_servers: str, value: str
) -> None:
    """P5: Kafka takes what the door takes; a body just under the limit is a record just under that of the topic."""
    user = f"p5 {len(value)}"
    data = [{"key": f"key-{number:05}", "value": value} for number in range(10_000)]
    body = json.dumps({**a_txn(pennkey=user), "data": data}, separators=(",", ":")).encode()
    assert len(body) < 3_900_000
    assert (await post(client, gateway, body))[0] == 200
    ((_, _, event),) = kept_of(kafka_servers, user)
    assert [(each.key, each.value) for each in event.data] == [(each["key"], value) for each in data]


async def test_same_body_twice_has_one_id(gateway: Gateway, client: aiohttp.ClientSession, kafka_servers: str) -> None:
    """P14: by which the worker leaves the second one out, over a retry as over a restart."""
    for _ in range(2):
        assert (await post(client, gateway, body_of(pennkey="p14")))[0] == 200
    assert len({kept.event.id for kept in kept_of(kafka_servers, "p14")}) == 1


async def test_session_is_known_to_other_gateways_and_after_a_restart(
    gateway: Gateway, client: aiohttp.ClientSession, kafka_servers: str
) -> None:
    """P11: taught to one gateway, asked of another that runs, and of one that starts later; unknown is nobody."""
    with running_gateway(kafka_servers) as second:
        await eventually(takes_transactions(client, second))
        assert (await post(client, gateway, body_of(pennkey="p11"), X_Session_Id="known"))[0] == 200

        async def is_known_to_the_second() -> bool:
            body = body_of(pennkey=None, data=[{"key": "second", "value": "1"}])
            assert (await post(client, second, body, X_Session_Id="known"))[0] == 200
            return any(kept.event.data[0].key == "second" for kept in kept_of(kafka_servers, "p11"))

        await eventually(is_known_to_the_second)
    with running_gateway(kafka_servers) as third:
        await eventually(takes_transactions(client, third))
        for session, key in (("known", "third"), ("unknown", "nobody")):
            body = body_of(pennkey=None, data=[{"key": key, "value": "1"}])
            assert (await post(client, third, body, X_Session_Id=session))[0] == 200
    # Nobody has sent others too, in other tests, some without a datapoint.
    users = {kept.event.data[0].key: kept.event.user for kept in kept_of(kafka_servers, "p11", "") if kept.event.data}
    assert (users["third"], users["nobody"]) == ("p11", "")


def test_thousand_requests_of_sixteen_threads(gateway: Gateway, kafka_servers: str) -> None:
    """P2, P13, P19, P22: all of them 200 while there is no Postgres, and all stored. How long they take, the log says."""
    bodies = [p19_body(number) for number in range(REQUESTS)]
    shares = [bodies[number::THREADS] for number in range(THREADS)]
    with ThreadPoolExecutor(THREADS) as pool, closing(Door(gateway.port)) as door:
        started_s = SYSTEM_CLOCK.monotonic_s()
        answers = [answer for share in pool.map(lambda share: post_all(gateway, share), shares) for answer in share]
        took_s = SYSTEM_CLOCK.monotonic_s() - started_s
        lag_ms = door.metric("tally_loop_lag_seconds") * 1_000
    log.info("%d requests took %.2f s; the gateway's loop was %.1f ms late", REQUESTS, took_s, lag_ms)
    assert Counter(answers) == {(200, STORED): REQUESTS}
    kept = kept_of(kafka_servers, "p19")
    assert (len(kept), len({each.event.id for each in kept})) == (REQUESTS, REQUESTS)
    assert {len(each.event.data) for each in kept} == {DATAPOINTS}


def p19_body(number: int) -> bytes:
    return body_of(pennkey="p19", timestamp=number, data=[{"key": f"k{each}", "value": "1"} for each in range(DATAPOINTS)])


def post_all(gateway: Gateway, bodies: list[bytes]) -> list[tuple[int, bytes]]:
    """Post one after another on a connection of the thread's own."""
    with closing(Door(gateway.port)) as door:
        return [(answer.status, answer.body) for answer in (door.ask("POST", "/analytics/", body) for body in bodies)]


async def test_without_kafka_it_is_503_and_sent_again_the_same(
    gateway: Gateway, client: aiohttp.ClientSession, kafka: LocalKafka, kafka_servers: str
) -> None:
    """P13: no success without Kafka; whoever sends again, as `Retry-After` says, has sent one transaction."""
    kafka.stop()
    try:
        answers = await asyncio.gather(
            *(post(client, gateway, body_of(pennkey="p13", timestamp=number)) for number in range(20))
        )
        assert answers == [(503, {"detail": NOT_ACKNOWLEDGED})] * 20
        async with client.post(gateway.url("/analytics"), data=body_of()) as response:
            assert (response.status, response.headers["Retry-After"]) == (503, "1")
        assert (await post(client, gateway, b"{"))[0] == 400, "what is wrong stays wrong"
    finally:
        kafka.start()
    await eventually(takes_transactions(client, gateway))
    for number in range(20):
        assert (await post(client, gateway, body_of(pennkey="p13", timestamp=number)))[0] == 200
    assert len({kept.event.id for kept in kept_of(kafka_servers, "p13")}) == 20
