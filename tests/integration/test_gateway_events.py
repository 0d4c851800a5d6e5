"""Events of `/v1` through the gateway as its own process into a real Kafka: what is `ok` is there, what is not is not."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import random
import signal
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest
import zstandard
from aiokafka.partitioner import murmur2

from bench.processes import peak_rss_mib
from gateway.events_route import BODY_BYTES_MAX, EXPANDED_BYTES_MAX
from gateway.events_schema import EVENTS_MAX
from stack.kafka import LocalKafka
from streams.clock import SYSTEM_CLOCK
from streams.codecs import Codec
from streams.dead_letters import read_dead_letter
from streams.event_time import format_instant
from streams.topics import DEAD_LETTERS, EVENTS
from tests.support.events_door import a_batch
from tests.support.events_door import an_event as an_event_of_then
from tests.support.gateway_process import (
    ACKNOWLEDGE_TIMEOUT_S,
    PARTITIONS,
    Gateway,
    Record,
    a_client,
    end_offsets,
    eventually,
    gets,
    records_since,
    running_gateway,
)
from tests.support.submission_oracle import SubmissionOracle

MARGIN_S = 1.5
LARGE_BODIES_MIB_MAX = 300
"""What may be read and what may wait for Kafka are 64 and 128 MiB of it; the rest is what is made of them."""
DECODE = Codec(EVENTS).decode
SinceThen = Callable[[], list[Record]]
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "identity": bytes,
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}


def an_event(**changes: Any) -> dict[str, Any]:
    """Return a valid event of now."""
    return an_event_of_then(**{"time": format_instant(SYSTEM_CLOCK.now_ms()), **changes})


@pytest.fixture
def written(kafka_servers: str, topic: str) -> SinceThen:
    """What was written to the topic of events since the test began."""
    start = end_offsets(kafka_servers, EVENTS.topic)
    return lambda: records_since(kafka_servers, start)


@pytest.fixture
async def client(gateway: Gateway) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of the gateway, which takes events by now."""
    async with a_client() as session:
        await eventually(lambda: sends(session, gateway, 200))
        yield session


async def send(
    client: aiohttp.ClientSession, gateway: Gateway, body: Any, path: str = "/v1/events", **headers: str
) -> tuple[int, Any, Any]:
    """Post a body; return status, decoded answer and headers."""
    sent = {"Content-Type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
    piece = io.BytesIO(body) if isinstance(body, bytes) else body  # aiohttp warns of large bytes
    async with client.post(gateway.url(path), data=piece, headers=sent) as response:
        text = await response.read()
        return response.status, json.loads(text) if text else None, response.headers


async def sends(client: aiohttp.ClientSession, gateway: Gateway, status: int) -> bool:
    """Say whether an event is answered *status* now."""
    try:
        return (await send(client, gateway, a_batch(an_event(user_id="probe"))))[0] == status
    except aiohttp.ClientError:
        return False


def ids_in(records: list[Record]) -> Counter[str]:
    """Return how often each id was written, without the probes' ones."""
    events = [DECODE(value)[0] for _, _, value in records]
    return Counter(event.id for event in events if event.user != "probe")


@pytest.mark.parametrize("encoding", COMPRESS)
async def test_what_is_ok_is_in_the_topic_under_its_user(
    gateway: Gateway, client: aiohttp.ClientSession, written: SinceThen, encoding: str
) -> None:
    """collector.md §1, §2: acknowledged records, keyed and placed by the user, with the request's id; the bad are not there."""
    events = [an_event(user_id=f"user-{n % 17}", properties={"n": n}) for n in range(200)]
    bad = an_event(type=...)
    body = COMPRESS[encoding](a_batch(*events, bad))
    status, answer, headers = await send(client, gateway, body, Content_Encoding=encoding, X_Request_Id="r-1")
    assert (status, headers["X-Request-Id"], answer["request_id"]) == (200, "r-1", "r-1")
    words = {name: result["result"] for name, result in answer["results"].items()}
    assert words == {event["id"]: "ok" for event in events} | {bad["id"]: "drop"}
    records = written()
    found = {DECODE(value)[0].id: (partition, key) for partition, key, value in records}
    users = {event["id"]: event["user_id"].encode() for event in events}
    assert found == {id_: ((murmur2(user) & 0x7FFFFFFF) % PARTITIONS, user) for id_, user in users.items()}
    assert len(records) == len(events)


async def test_a_dropped_event_is_a_dead_letter(
    gateway: Gateway, client: aiohttp.ClientSession, kafka_servers: str, topic: str
) -> None:
    """Decision 0025: before its producer is told, and readable as every dead letter is."""
    start = end_offsets(kafka_servers, DEAD_LETTERS)
    bad = an_event(time="yesterday", user_id="erase-me")
    await send(client, gateway, a_batch(an_event(), bad), X_Request_Id="r-2")
    (letter,) = letters_since(kafka_servers, start)
    assert (letter.reason, letter.stage, letter.source.topic, letter.key) == ("time", "gateway", "/v1/events", b"erase-me")
    assert json.loads(letter.value or b"") == bad
    assert letter.headers == [("request-id", b"r-2")]


def letters_since(servers: str, start: dict[Any, int]) -> list[Any]:
    """Return the dead letters since then."""
    from kafka import KafkaConsumer

    ends = end_offsets(servers, DEAD_LETTERS)
    consumer = KafkaConsumer(bootstrap_servers=servers, enable_auto_commit=False)
    consumer.assign(list(start))
    for partition, offset in start.items():
        consumer.seek(partition, offset)
    letters: list[Any] = []
    try:
        while any(consumer.position(partition) < end for partition, end in ends.items()):
            for batch in consumer.poll(timeout_ms=1000).values():
                letters += map(read_dead_letter, batch)
    finally:
        consumer.close()
    return letters


async def test_the_largest_request_is_stored(gateway: Gateway, client: aiohttp.ClientSession, written: SinceThen) -> None:
    """Limits at n through sockets, Kafka's batches and its largest record: 1,000 events, near 5 MB when expanded."""
    noise = random.Random(7)
    size_bytes = EXPANDED_BYTES_MAX // EVENTS_MAX - 400
    events = [an_event(user_id=f"u-{n % 5}", properties={"text": noise.choice("abc") * size_bytes}) for n in range(EVENTS_MAX)]
    body = gzip.compress(a_batch(*events))
    status, answer, _ = await send(client, gateway, body, Content_Encoding="gzip")
    assert (status, {result["result"] for result in answer["results"].values()}) == (200, {"ok"})
    assert ids_in(written()) == Counter(event["id"] for event in events)
    large = an_event(context={str(n): noise.randbytes(3_900).hex() for n in range(8)})
    assert (await send(client, gateway, a_batch(large)))[0] == 200
    (event,) = [DECODE(value)[0] for _, _, value in written() if large["id"].encode() in (value or b"")]
    assert json.loads(event.properties)["context"] == large["context"]


@pytest.mark.parametrize("times", [1, 2, 16])
async def test_a_client_that_sends_too_much_reads_its_413(gateway: Gateway, client: aiohttp.ClientSession, times: int) -> None:
    """Announced or in chunks: it hears why before it has sent all of it, and no reset takes that along."""

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(times):
            yield b" " * (BODY_BYTES_MAX + 1)

    for _ in range(10):
        for body in (b" " * (BODY_BYTES_MAX + 1) * times, chunks()):
            status, answer, _ = await send(client, gateway, body)
            assert (status, answer["error"]["code"]) == (413, "body_too_large")


async def test_a_body_too_large_when_it_is_expanded_is_413(gateway: Gateway, client: aiohttp.ClientSession) -> None:
    """The connection goes on."""
    status, answer, _ = await send(client, gateway, bomb(zlib.compressobj(wbits=31), 100_000_000), Content_Encoding="gzip")
    assert (status, answer["error"]["code"]) == (413, "body_too_large")
    assert (await send(client, gateway, a_batch(an_event())))[0] == 200


async def test_bombs_cost_no_memory(gateway: Gateway, client: aiohttp.ClientSession) -> None:
    """security.md row 6: a gigabyte in a megabyte, many times at once; what the process grows by is bounded."""
    body = bomb(zstandard.ZstdCompressor().compressobj(), 1_000_000_000)
    before_mib = peak_rss_mib(gateway.process.pid)
    statuses = await asyncio.gather(*(send(client, gateway, body, Content_Encoding="zstd") for _ in range(50)))
    assert {status for status, _, _ in statuses} == {413}
    assert peak_rss_mib(gateway.process.pid) - before_mib < 50


async def test_large_bodies_at_a_time_cost_bounded_memory(gateway: Gateway, client: aiohttp.ClientSession) -> None:
    """As large as may be, a few kilobytes each before they are expanded: what there is no room for is told to come again."""
    text = {str(n): "x" * 1_000 for n in range(5)}
    body = gzip.compress(a_batch(*(an_event(user_id=f"u-{n}", properties=text) for n in range(950))))
    before_mib = peak_rss_mib(gateway.process.pid)
    answers = await asyncio.gather(*(send(client, gateway, body, Content_Encoding="gzip") for _ in range(60)))
    assert {status for status, _, _ in answers} <= {200, 503}
    assert {headers.get("Retry-After") for status, _, headers in answers if status == 503} <= {"1"}
    assert peak_rss_mib(gateway.process.pid) - before_mib < LARGE_BODIES_MIB_MAX
    status, answer, _ = await send(client, gateway, body, Content_Encoding="gzip")
    assert (status, {result["result"] for result in answer["results"].values()} <= {"ok", "duplicate"}) == (200, True)


def bomb(stream: Any, size_bytes: int) -> bytes:
    """Return zeros, compressed piece by piece; it fits on the wire."""
    piece = bytes(1_000_000)
    body: bytes = b"".join(stream.compress(piece) for _ in range(size_bytes // len(piece))) + stream.flush()
    assert len(body) < BODY_BYTES_MAX
    return body


async def test_a_beacon_is_204_and_stored(gateway: Gateway, client: aiohttp.ClientSession, written: SinceThen) -> None:
    """collector.md §1: text/plain; always 204, though only one of these holds an event."""
    event = an_event()
    for body in (a_batch(event), b"nonsense", b""):
        status, answer, _ = await send(client, gateway, body, "/v1/beacon", Content_Type="text/plain")
        assert (status, answer) == (204, None)

    async def is_stored() -> bool:
        return ids_in(written()) == Counter([event["id"]])

    await eventually(is_stored)


async def test_without_waiting_events_are_stored_all_the_same(
    gateway: Gateway, client: aiohttp.ClientSession, written: SinceThen
) -> None:
    """collector.md §1.1: 202, no promise."""
    event = an_event()
    status, answer, _ = await send(client, gateway, a_batch(event), "/v1/events?wait=false")
    assert (status, answer["results"]) == (202, {})

    async def is_stored() -> bool:
        return ids_in(written()) == Counter([event["id"]])

    await eventually(is_stored)


@pytest.mark.parametrize(("path", "method"), [("/v1/events", "GET"), ("/v1/beacon", "DELETE"), ("/v1/schemas", "POST")])
async def test_a_wrong_method_is_405(gateway: Gateway, client: aiohttp.ClientSession, path: str, method: str) -> None:
    """interface.md."""
    async with client.request(method, gateway.url(path)) as response:
        assert (response.status, (await response.json())["error"]["code"]) == (405, "method_not_allowed")


@pytest.mark.parametrize("path", ["/v1/schemas", "/openapi.json"])
async def test_documents_are_published(gateway: Gateway, client: aiohttp.ClientSession, path: str) -> None:
    """For those who generate clients."""
    async with client.get(gateway.url(path)) as response:
        assert (response.status, response.content_type) == (200, "application/json")
        assert "ProducerEventV1" in await response.text()


async def test_metrics_show_what_became_of_events(gateway: Gateway, client: aiohttp.ClientSession) -> None:
    """Each by its result, and how far clocks differ."""
    await send(client, gateway, a_batch(an_event(), an_event(type=...)), X_Sent_At=format_instant(SYSTEM_CLOCK.now_ms()))
    async with client.get(gateway.url("/metrics")) as response:
        text = await response.text()
    for series in (
        'tally_gateway_event_results_total{result="ok",route="events"}',
        'tally_gateway_event_results_total{result="drop",route="events"}',
        'tally_gateway_requests_total{code="200",route="events"}',
        'tally_gateway_dead_letters_total{result="acknowledged"}',
        'tally_gateway_refused_total{reason="schema.missing_field"}',
        "tally_gateway_clock_skew_seconds_count",
        'tally_gateway_decoded_bytes_total{route="events"}',
    ):
        assert series in text


async def test_an_outage_is_503_within_the_limit_and_passes(
    gateway: Gateway, client: aiohttp.ClientSession, kafka: LocalKafka, kafka_servers: str, written: SinceThen
) -> None:
    """collector.md §2: no success without `acks=all`, an answer in time, and Retry-After with everything to be sent again."""
    events = [an_event() for _ in range(10)]
    kafka.stop()
    try:
        started_s = SYSTEM_CLOCK.monotonic_s()
        status, answer, headers = await send(client, gateway, a_batch(*events))
        assert SYSTEM_CLOCK.monotonic_s() - started_s < ACKNOWLEDGE_TIMEOUT_S + MARGIN_S
        assert (status, headers["Retry-After"]) == (503, "1")
        assert {result["result"] for result in answer["results"].values()} == {"retry"}
        started_s = SYSTEM_CLOCK.monotonic_s()
        status, answer, headers = await send(client, gateway, a_batch(*events))
        assert (status, headers["Retry-After"], answer["error"]["code"]) == (503, "1", "kafka_unavailable")
        assert SYSTEM_CLOCK.monotonic_s() - started_s < MARGIN_S, "an outage that is known is answered at once"
    finally:
        kafka.start()
    await eventually(lambda: sends(client, gateway, 200))
    status, answer, _ = await send(client, gateway, a_batch(*events))
    assert (status, {result["result"] for result in answer["results"].values()}) == (200, {"ok"})
    assert set(ids_in(written())) == {event["id"] for event in events}
    assert counted(kafka_servers, events) == [1] * len(events)


def counted(servers: str, events: list[dict[str, Any]]) -> list[int]:
    """Return how often a worker must count each event, whatever lies in the topic twice; by plain recomputation."""
    counts = Counter(first.event["id"] for first in SubmissionOracle.of(servers, EVENTS.topic).firsts)
    return [counts[event["id"]] for event in events]


async def test_no_event_is_lost_when_the_broker_dies_under_load(
    gateway: Gateway, client: aiohttp.ClientSession, kafka: LocalKafka, kafka_servers: str, written: SinceThen
) -> None:
    """The ledger: each event is sent until it is `ok` or `duplicate`; then it is there, more than once only after a `retry`."""
    batches = [[an_event(user_id=f"u-{n % 31}") for n in range(100)] for _ in range(40)]
    sending = [asyncio.create_task(send_until_stored(client, gateway, batch)) for batch in batches]
    await asyncio.wait(sending, return_when=asyncio.FIRST_COMPLETED)
    kafka.kill()
    kafka.start()  # In this thread: the kernel takes a child along with the thread that made it.
    retried = set().union(*await asyncio.gather(*sending))
    counts = ids_in(written())
    assert set(counts) == {event["id"] for batch in batches for event in batch}
    assert {id_ for id_, count in counts.items() if count > 1} <= retried
    assert counted(kafka_servers, [event for batch in batches for event in batch]) == [1] * 4_000


async def send_until_stored(client: aiohttp.ClientSession, gateway: Gateway, events: list[dict[str, Any]]) -> set[str]:
    """Send what is not known to be stored until nothing is left; return the ids that were sent more than once."""
    left = {event["id"]: event for event in events}
    retried: set[str] = set()
    while left:
        status, answer, _ = await send(client, gateway, a_batch(*left.values()))
        if status == 200:
            left = {id_: event for id_, event in left.items() if answer["results"][id_]["result"] == "retry"}
        if left:
            assert status in (200, 503)
            retried |= set(left)
            await asyncio.sleep(0.2)
    return retried


async def test_the_end_answers_what_is_in_flight(kafka_servers: str, topic: str, written: SinceThen) -> None:
    """A8: SIGTERM between body and acknowledgment loses nothing that is then answered `ok`."""
    events = [an_event() for _ in range(300)]
    with running_gateway(kafka_servers, gateway_linger_ms="1000") as gateway:
        async with a_client() as client:
            await eventually(lambda: sends(client, gateway, 200))
            sending = [asyncio.create_task(send(client, gateway, a_batch(*events[n : n + 30]))) for n in range(0, 300, 30)]
            await eventually(lambda: waits(client, gateway, 300))
            gateway.process.send_signal(signal.SIGTERM)
            answers = await asyncio.gather(*sending)
        code, log = await asyncio.to_thread(gateway.ended)
    assert (code, "Traceback" in log) == (0, False)
    assert [status for status, _, _ in answers] == [200] * 10
    assert ids_in(written()) == Counter(event["id"] for event in events)


async def waits(client: aiohttp.ClientSession, gateway: Gateway, count: int) -> bool:
    """Say whether so many events wait for Kafka."""
    async with client.get(gateway.url("/metrics")) as response:
        lines = (await response.text()).splitlines()
    return any(float(line.split()[1]) >= count for line in lines if line.startswith("tally_gateway_events_waiting "))


async def test_too_much_waiting_is_503_for_a_whole_request(kafka_servers: str, topic: str, kafka: LocalKafka) -> None:
    """Memory is bounded by the limit and one request, and nothing of a refused request is kept."""
    with running_gateway(kafka_servers, gateway_events_waiting_max="100") as gateway:
        async with a_client() as client:
            await eventually(lambda: sends(client, gateway, 200))
            assert kafka._process is not None
            kafka._process.send_signal(signal.SIGSTOP)
            try:
                answers = await asyncio.gather(
                    *(send(client, gateway, a_batch(*(an_event() for _ in range(60)))) for _ in range(6))
                )
            finally:
                kafka._process.send_signal(signal.SIGCONT)
            codes = Counter(answer["error"]["code"] for _, answer, _ in answers)
            assert codes["too_many_waiting"] == 4
            assert {(status, headers["Retry-After"]) for status, _, headers in answers} == {(503, "1")}
            await eventually(lambda: sends(client, gateway, 200))
            assert await gets(client, gateway, "/live", 200)
