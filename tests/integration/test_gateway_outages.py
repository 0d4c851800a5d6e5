"""What the gateway does while Kafka is away, at its start and at its end."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from typing import Any

import aiohttp
import pytest

from stack.kafka import LocalKafka
from stack.ports import free_port
from streams.clock import SYSTEM_CLOCK
from streams.settings import Settings
from tests.support.builders import a_record
from tests.support.gateway_process import (
    ACKNOWLEDGE_TIMEOUT_S,
    TOPIC,
    Gateway,
    LogOf,
    a_client,
    eventually,
    gets,
    post,
    posts,
    running_gateway,
)

MARGIN_S = 1.5


async def test_outage_is_503_within_the_limit_and_passes(
    gateway: Gateway, client: aiohttp.ClientSession, kafka: LocalKafka, log_of: LogOf
) -> None:
    """A1, interface.md: no success without `acks=all`, an answer in time, and recovery without a restart."""
    kafka.stop()
    try:
        started_s = SYSTEM_CLOCK.monotonic_s()
        answers = await asyncio.gather(*(post_with_headers(client, gateway) for _ in range(20)))
        assert SYSTEM_CLOCK.monotonic_s() - started_s < ACKNOWLEDGE_TIMEOUT_S + MARGIN_S
        assert {(status, headers["Retry-After"]) for status, headers, _ in answers} == {(503, "1")}
        assert {body["error"]["code"] for _, _, body in answers} <= {"not_acknowledged", "kafka_unavailable"}
        assert await gets(client, gateway, "/live", 200)
        await eventually(lambda: gets(client, gateway, "/health", 503))
        started_s = SYSTEM_CLOCK.monotonic_s()
        assert await posts(client, gateway, 503)
        assert SYSTEM_CLOCK.monotonic_s() - started_s < MARGIN_S, "an outage that is known is answered at once"
    finally:
        kafka.start()
    await eventually(lambda: posts(client, gateway, 204))
    before = len(log_of())
    answers_after = await asyncio.gather(*(post(client, gateway, a_record(price=number)) for number in range(50)))
    assert answers_after == [(204, None)] * 50
    assert len(log_of()) == before + 50


async def test_events_that_wait_out_a_short_outage_are_stored_once(
    gateway: Gateway, client: aiohttp.ClientSession, kafka: LocalKafka, log_of: LogOf
) -> None:
    """A10: the broker dies with batches on their way; whoever got 204 is in the topic once, and nobody twice."""
    bodies = [a_record(cookie=f"outage-{number}") for number in range(3_000)]
    sending = [asyncio.create_task(send_until_stored(client, gateway, body)) for body in bodies]
    await asyncio.wait(sending, return_when=asyncio.FIRST_COMPLETED)
    kafka.kill()
    kafka.start()  # In this thread: the kernel takes a child along with the thread that made it.
    refusals = sum(await asyncio.gather(*sending))
    assert refusals > 0, "the broker died too late to be missed"
    values = [value or b"" for _, _, value in log_of() if value and b"outage-" in value]
    assert set(values) == set(bodies)
    assert len(values) - len(bodies) <= refusals, "only an event that was answered 503 may be there twice"


async def test_silent_kafka_is_503_within_the_limit(gateway: Gateway, client: aiohttp.ClientSession, kafka: LocalKafka) -> None:
    """A broker that hangs keeps its connections open: only our own clock can tell."""
    assert kafka._process is not None
    kafka._process.send_signal(signal.SIGSTOP)
    try:
        started_s = SYSTEM_CLOCK.monotonic_s()
        status, answer = await post(client, gateway, a_record())
        assert SYSTEM_CLOCK.monotonic_s() - started_s < ACKNOWLEDGE_TIMEOUT_S + MARGIN_S
        assert (status, answer["error"]["code"]) == (503, "not_acknowledged")
    finally:
        kafka._process.send_signal(signal.SIGCONT)
    await eventually(lambda: posts(client, gateway, 204))


async def test_refused_batch_costs_no_later_event(
    gateway: Gateway, client: aiohttp.ClientSession, kafka_servers: str, log_of: LogOf
) -> None:
    """A batch that Kafka refuses has used up its sequence numbers: the same producer could never write again."""
    set_record_bytes_max(kafka_servers, 200)
    try:
        await eventually(lambda: posts(client, gateway, 503))
    finally:
        set_record_bytes_max(kafka_servers, Settings().topics.record_bytes_max)
    await eventually(lambda: posts(client, gateway, 204))
    before = len(log_of())
    answers = await asyncio.gather(*(post(client, gateway, a_record(cookie=f"{number}")) for number in range(40)))
    assert answers == [(204, None)] * 40
    assert len(log_of()) == before + 40


async def test_gateway_starts_without_kafka() -> None:
    """Processes start in any order; the gateway waits instead of ending, and says what it waits for."""
    with running_gateway(f"127.0.0.1:{free_port()}") as gateway:
        async with a_client() as client:
            await eventually(lambda: gets(client, gateway, "/live", 200))
            status, headers, answer = await post_with_headers(client, gateway)
            assert (status, headers["Retry-After"], answer["error"]["code"]) == (503, "1", "kafka_unavailable")
            async with client.get(gateway.url("/ready")) as response:
                assert response.status == 503
                assert "kafka is not connected" in (await response.json())["reasons"]
        code, log = gateway.end()
    assert (code, "Traceback" in log) == (0, False)


async def test_events_over_the_limit_of_waiting_are_503_at_once(kafka_servers: str, topic: str, kafka: LocalKafka) -> None:
    """Memory is bounded: past the limit a request is refused instead of kept."""
    with running_gateway(kafka_servers, gateway_events_waiting_max="10") as gateway:
        async with a_client() as client:
            await eventually(lambda: posts(client, gateway, 204))
            assert kafka._process is not None
            kafka._process.send_signal(signal.SIGSTOP)
            try:
                answers = await asyncio.gather(*(post(client, gateway, a_record()) for _ in range(30)))
            finally:
                kafka._process.send_signal(signal.SIGCONT)
            codes = [answer["error"]["code"] for _, answer in answers]
            assert codes.count("too_many_waiting") == 20
            await eventually(lambda: posts(client, gateway, 204))


async def test_end_answers_and_stores_what_is_in_flight(kafka_servers: str, topic: str, log_of: LogOf) -> None:
    """A8: a rolling restart behind a balancer loses nothing that was answered, and the exit code says success."""
    bodies = [a_record(cookie=f"end-{number}") for number in range(300)]
    with running_gateway(kafka_servers, gateway_linger_ms="1000") as gateway:
        async with a_client() as client:
            await eventually(lambda: posts(client, gateway, 204))
            sending = [asyncio.create_task(post(client, gateway, body)) for body in bodies]
            await eventually(lambda: metric_at_least(client, gateway, "tally_gateway_events_waiting", len(bodies)))
            started_s = SYSTEM_CLOCK.monotonic_s()
            gateway.process.send_signal(signal.SIGTERM)
            answers = await asyncio.gather(*sending)
        code, log = await asyncio.to_thread(gateway.ended)
    assert (code, "Traceback" in log) == (0, False)
    assert SYSTEM_CLOCK.monotonic_s() - started_s < 5
    assert answers == [(204, None)] * len(bodies)
    values = [value for _, _, value in log_of() if value and b"end-" in value]
    assert sorted(values) == sorted(bodies)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"topics_partitions": "3"}, "topics.partitions is 3, but topic 'user-tags.v1' has 4 partitions"),
        ({"gateway_linger_ms": "soon"}, "gateway.linger_ms is 'soon'"),
        ({"gateway_lingering_ms": "3"}, "did you mean TALLY_GATEWAY_LINGER_MS"),
        ({"kafka_servers": ""}, "kafka.servers is empty"),
    ],
)
def test_bad_setting_ends_the_start_with_one_line(kafka_servers: str, topic: str, settings: dict[str, str], told: str) -> None:
    """A14: what is wrong and what would be right, and no stack trace."""
    with running_gateway(kafka_servers, **settings) as gateway:
        code, log = gateway.ended()
    assert code == 2
    assert told in log.splitlines()[-1]
    assert "Traceback" not in log


def test_port_in_use_ends_the_start_with_one_line(kafka_servers: str) -> None:
    """The most usual reason of all for a start that fails."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with running_gateway(kafka_servers, gateway_port=str(port)) as gateway:
            code, log = gateway.ended()
    assert code == 2
    assert log.splitlines() == [log.rstrip()]
    assert f"127.0.0.1:{port}" in log


def set_record_bytes_max(servers: str, bytes_max: int) -> None:
    """Change what the broker takes at most, for the topic of events."""
    from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient

    admin = KafkaAdminClient(bootstrap_servers=servers)
    try:
        configs = {"max.message.bytes": str(bytes_max)}
        admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, TOPIC, configs=configs)])
    finally:
        admin.close()


async def post_with_headers(client: aiohttp.ClientSession, gateway: Gateway) -> tuple[int, Any, Any]:
    """Send an event; return status, headers and decoded answer."""
    async with client.post(gateway.url("/user_tags"), data=a_record()) as response:
        text = await response.read()
        return response.status, response.headers, json.loads(text) if text else None


async def send_until_stored(client: aiohttp.ClientSession, gateway: Gateway, body: bytes) -> int:
    """Send an event until 204; return how often it was answered otherwise."""
    refusals = 0
    while (await post(client, gateway, body))[0] != 204:
        refusals += 1
        await asyncio.sleep(0.2)
    return refusals


async def metric_at_least(client: aiohttp.ClientSession, gateway: Gateway, name: str, value: float) -> bool:
    """Say whether a metric without labels has reached *value*."""
    async with client.get(gateway.url("/metrics")) as response:
        lines = (await response.text()).splitlines()
    return any(float(line.split()[1]) >= value for line in lines if line.startswith(f"{name} "))
