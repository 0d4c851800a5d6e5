"""How a gateway waits for its workers, and how it ends: queries that wait, a second signal, room for so many."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from tests.integration.test_gateway_queries import StandInWorker, running_worker
from tests.support.builders import a_record
from tests.support.gateway_process import Gateway, a_client, eventually, gets, post, running_gateway

LONG_S = "250"
"""Longer than any test waits: who gives up in time did not wait for it."""


@asynccontextmanager
async def a_gateway_and_worker(servers: str, **settings: str) -> AsyncIterator[tuple[Gateway, StandInWorker]]:
    """Run a gateway that has seen its only worker ready."""
    with running_gateway(servers, gateway_query_timeout_s=LONG_S, **settings) as gateway:
        async with running_worker(gateway.worker_ports[0]) as worker, a_client() as client:
            await eventually(lambda: gets(client, gateway, "/ready", 200))
            yield gateway, worker


async def ask(client: aiohttp.ClientSession, gateway: Gateway) -> int:
    async with client.get(gateway.url("/aggregates")) as response:
        return response.status


async def waiting(client: aiohttp.ClientSession, gateway: Gateway, count: int) -> bool:
    """Say whether so many queries wait, by the gateway's own word."""
    async with client.get(gateway.url("/metrics")) as response:
        return f"tally_gateway_queries_waiting {float(count)}" in await response.text()


async def test_query_waits_until_a_worker_can_answer(kafka_servers: str, topic: str) -> None:
    """A worker restarts in seconds: its partitions are missed, and nobody is told 503 for it; events go on meanwhile."""
    async with a_gateway_and_worker(kafka_servers) as (gateway, worker), a_client() as client:
        worker.status = 503
        asking = [asyncio.create_task(ask(client, gateway)) for _ in range(3)]
        await eventually(lambda: waiting(client, gateway, 3))
        assert await post(client, gateway, a_record()) == (204, None)
        assert not any(each.done() for each in asking)
        worker.status = 200
        assert await asyncio.gather(*asking) == [200] * 3
        assert await waiting(client, gateway, 0)


async def test_only_so_many_queries_wait(kafka_servers: str, topic: str) -> None:
    """Each holds a connection: past the limit one is told at once."""
    async with a_gateway_and_worker(kafka_servers, gateway_queries_waiting_max="1") as (gateway, worker), a_client() as client:
        worker.status = 503
        first = asyncio.create_task(ask(client, gateway))
        await eventually(lambda: waiting(client, gateway, 1))
        assert await ask(client, gateway) == 503
        worker.status = 200
        assert await first == 200


async def test_queries_that_wait_are_answered_when_the_gateway_stops(kafka_servers: str, topic: str) -> None:
    """503, not a cut connection: a balancer puts the query to the next gateway."""
    async with a_gateway_and_worker(kafka_servers) as (gateway, worker), a_client() as client:
        worker.status = 503
        asking = asyncio.create_task(ask(client, gateway))
        await eventually(lambda: waiting(client, gateway, 1))
        gateway.process.send_signal(signal.SIGTERM)
        assert await asking == 503
        assert (await asyncio.to_thread(gateway.ended))[0] == 0


async def test_second_signal_ends_the_drain(kafka_servers: str, topic: str) -> None:
    """An operator who is in a hurry need not kill; until then everything is served, and `/ready` says why it should not be."""
    async with a_gateway_and_worker(kafka_servers, gateway_drain_s=LONG_S) as (gateway, _), a_client() as client:
        gateway.process.send_signal(signal.SIGTERM)
        await eventually(lambda: gets(client, gateway, "/ready", 503))
        async with client.get(gateway.url("/ready?for=events")) as response:
            assert (await response.json())["reasons"] == ["the gateway stops"]
        assert await post(client, gateway, a_record()) == (204, None)
        assert await ask(client, gateway) == 200
        gateway.process.send_signal(signal.SIGTERM)
        assert (await asyncio.to_thread(gateway.ended))[0] == 0
