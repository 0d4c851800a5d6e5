"""Whatever is posted to a gateway process: no answer is an error of ours, and Kafka has what was accepted and nothing else."""

from __future__ import annotations

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from http.client import HTTPConnection, HTTPMessage
from random import Random
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import zstandard
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from bench.processes import peak_rss_mib
from gateway.analytics_txn import Product
from gateway.events_published import json_schemas, openapi
from gateway.events_route import BODY_BYTES_MAX, EXPANDED_BYTES_MAX
from gateway.events_schema import EVENTS_MAX
from streams.topics import DEAD_LETTERS, EVENTS
from tests.support.analytics_door import body_of
from tests.support.events_door import DECODE, a_batch, an_event
from tests.support.eventually import eventually
from tests.support.from_schema import anything
from tests.support.gateway_process import Gateway, end_offsets, records_since, running_gateway
from tests.support.hostile_bodies import NEAR, VALID, damaged, txns
from tests.support.strategies import randoms

ANSWER_TIMEOUT_S = 30
"""An answer that takes longer is a hang, whatever else this machine does."""
MEMORY_GROWTH_MIB_MAX = 64
JSON, LINES, EVENTS_PATH = "application/json", "application/x-ndjson", "/v1/events"
SCHEMAS = json_schemas()["schemas"]
CHECKS = {name: jsonschema.Draft202012Validator(SCHEMAS[name]).validate for name in ("answer", "error")}
DOCUMENTED = openapi()["paths"][EVENTS_PATH]["post"]["responses"]
ENCODINGS: dict[str, Callable[[bytes], bytes]] = {
    "identity": bytes,
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}
MANY = settings(
    max_examples=400,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.generate),  # what a gateway has seen it remembers: a smaller example is another one
)
bodies = st.one_of(
    st.tuples(st.just(JSON), st.lists(VALID | NEAR | anything, max_size=5).map(lambda events: {"batch": events})),
    st.tuples(st.just(LINES), st.lists(VALID | NEAR | anything, max_size=5)),
    st.tuples(st.just(JSON), NEAR),
)


class Wire:
    """A kept connection to a gateway, and what came of all that was posted."""

    def __init__(self, gateway: Gateway) -> None:
        self._connection = HTTPConnection("127.0.0.1", gateway.port, timeout=ANSWER_TIMEOUT_S)

    def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, Any, HTTPMessage]:
        """Return status, decoded answer and headers."""
        self._connection.request("POST", path, body, dict(headers))
        with self._connection.getresponse() as response:
            text = response.read()
            return response.status, json.loads(text) if text else None, response.headers

    def close(self) -> None:
        self._connection.close()


@pytest.fixture(scope="module")
def gateway(kafka_servers: str, topic: str) -> Iterator[Gateway]:
    """One that takes events by now."""
    with running_gateway(kafka_servers, gateway_acknowledge_timeout_s="20") as process:

        def takes() -> bool:
            connection = Wire(process)
            try:
                return connection.post("/analytics", body_of(), {})[0] == 200
            except OSError:
                return False
            finally:
                connection.close()

        eventually(takes, within_s=60)
        yield process


@pytest.fixture
def wire(gateway: Gateway) -> Iterator[Wire]:
    connection = Wire(gateway)
    yield connection
    connection.close()


@pytest.fixture
def written(kafka_servers: str, gateway: Gateway) -> Callable[[], list[Any]]:
    """What was written to the topic of events since the test began, as a worker reads it."""
    start = end_offsets(kafka_servers, EVENTS.topic)
    return lambda: [DECODE(value)[0] for _, _, value in records_since(kafka_servers, start)]


def raw_of(kind: str, value: Any, *, is_ascii: bool) -> bytes:
    """Return JSON, or lines of it, as Python writes them: NaN, and surrogates too."""
    texts = [json.dumps(each, ensure_ascii=is_ascii) for each in (value if kind == LINES else [value])]
    return "\n".join(texts).encode("utf-8", "surrogatepass")


def test_events_are_in_the_topic_if_and_only_if_they_were_accepted(
    gateway: Gateway, wire: Wire, written: Callable[[], list[Any]]
) -> None:
    """Issue 7, bad input: any events, damaged or not, in any encoding; no 5xx, no hang, memory bounded, and the ledger."""
    accepted: set[str] = set()
    before_mib = peak_rss_mib(gateway.process.pid)

    @given(bodies, st.booleans(), st.none() | randoms, st.sampled_from(list(ENCODINGS)), st.sampled_from([*ENCODINGS, "br"]))
    @MANY
    def post_anything(said: tuple[str, Any], is_ascii: bool, damage: Random | None, encoding: str, other: str) -> None:
        body = raw_of(*said, is_ascii=is_ascii)
        if damage is not None and damage.random() < 0.5:
            body = damaged(body, damage)
        body = ENCODINGS[encoding](body)
        if damage is not None and damage.random() < 0.2:
            body, encoding = damaged(body, damage), damage.choice((encoding, other))
        status, answered, headers = wire.post(EVENTS_PATH, body, {"Content-Type": said[0], "Content-Encoding": encoding})
        accepted.update(taken_of(status, answered, headers))

    post_anything()
    assert accepted, "nothing was accepted: this tells nothing"
    stored = Counter((event.user, event.id) for event in written())
    assert {id_ for _, id_ in stored} == accepted
    assert set(stored.values()) == {1}
    assert peak_rss_mib(gateway.process.pid) - before_mib < MEMORY_GROWTH_MIB_MAX


def taken_of(status: int, answered: Any, headers: HTTPMessage) -> set[str]:
    """Check an answer against the published documents; return the ids of what it says is stored."""
    assert status in (200, 400, 413, 415, 422), answered
    assert str(status) in DOCUMENTED
    CHECKS["answer" if status == 200 else "error"](answered)
    assert "Retry-After" not in headers
    results = answered.get("results", {})
    return {name.lower() for name, result in results.items() if result["result"] in ("ok", "warning")}


def test_transactions_are_in_the_topic_if_and_only_if_they_were_accepted(
    gateway: Gateway, wire: Wire, written: Callable[[], list[Any]]
) -> None:
    """Issue 7, bad input; P3, P15: any transactions, damaged or not; each 200 is one record with what was sent, 400 is none."""
    accepted: Counter[tuple[str, str, str]] = Counter()
    before_mib = peak_rss_mib(gateway.process.pid)

    @given(txns, st.booleans(), st.none() | randoms)
    @MANY
    def post_anything(txn: Any, is_ascii: bool, damage: Random | None) -> None:
        body = raw_of(JSON, txn, is_ascii=is_ascii)
        if damage is not None and damage.random() < 0.5:
            body = damaged(body, damage)
        status, answered, headers = wire.post("/analytics/", body, {"Content-Type": JSON})
        assert (status, set(answered)) in ((200, {"message"}), (400, {"detail"})), answered
        assert "Retry-After" not in headers
        if status == 200:
            accepted[meaning_of(json.loads(body))] += 1

    post_anything()
    assert accepted, "nothing was accepted: this tells nothing"
    data_of = [[(each.key, each.value) for each in event.data] for event in written()]
    assert Counter((e.product, e.user, repr(data)) for e, data in zip(written(), data_of, strict=True)) == accepted
    assert peak_rss_mib(gateway.process.pid) - before_mib < MEMORY_GROWTH_MIB_MAX


def meaning_of(txn: dict[str, Any]) -> tuple[str, str, str]:
    """Return product, user and datapoints that a transaction names."""
    data = [(each["key"], each["value"]) for each in txn["data"]]
    return Product(txn["product"]).name, txn.get("pennkey") or "", repr(data)


def refusals() -> dict[str, tuple[int, str, bytes, dict[str, str]]]:
    """Return what is refused as a whole: status, code, body and headers, by what is wrong with it."""
    good, typed = a_batch(an_event()), {"Content-Type": JSON}
    gzipped = typed | {"Content-Encoding": "gzip"}
    return {
        "no JSON": (400, "not_json", b'{"batch": [', typed),
        "a list": (400, "not_events", b"[1]", typed),
        "no UTF-8": (400, "not_json", a_batch(an_event(user_id="@@")).replace(b"@@", b"\xff\xfe"), typed),
        "empty": (400, "empty", b" \n", typed),
        "cut off": (400, "damaged_body", gzip.compress(good)[:-9], gzipped),
        "something behind it": (400, "damaged_body", gzip.compress(good) + b"x", gzipped),
        "too large": (413, "body_too_large", good + b" " * BODY_BYTES_MAX, typed),
        "too large expanded": (413, "body_too_large", gzip.compress(good + b" " * EXPANDED_BYTES_MAX), gzipped),
        "too many": (413, "too_many_events", a_batch(*[an_event()] * (EVENTS_MAX + 1)), typed),
        "no type": (415, "unknown_type", good, {}),
        "another type": (415, "unknown_type", good, {"Content-Type": "text/csv"}),
        "another charset": (415, "unknown_type", good, {"Content-Type": f"{JSON}; charset=utf-16"}),
        "another encoding": (415, "unknown_encoding", good, typed | {"Content-Encoding": "br"}),
        "two encodings": (415, "unknown_encoding", good, typed | {"Content-Encoding": "gzip, gzip"}),
        "no event": (422, "no_events", b'{"batch": []}', typed),
        "none valid": (422, "no_valid_event", a_batch(an_event(id="5"), an_event(time="noon"), 7), typed),
    }


def test_each_refusal_is_told_and_nothing_of_it_is_stored(
    wire: Wire, written: Callable[[], list[Any]], kafka_servers: str
) -> None:
    """collector.md §1.1: over the wire, as published, no `Retry-After`: again would be refused again. The connection lives.

    Refusals of credentials and quotas are in test_gateway_auth.py, 503 in test_gateway_events.py.
    """
    letters = end_offsets(kafka_servers, DEAD_LETTERS)
    for name, (status, code, body, headers) in refusals().items():
        found, answered, said = wire.post(EVENTS_PATH, body, headers)
        assert (found, answered["error"]["code"]) == (status, code), name
        assert taken_of(found, answered, said) == set()
        found, answered, _ = wire.post(EVENTS_PATH, body_of(), {"Content-Type": JSON})
        assert found == 422, "the connection is not what it was"
    assert written() == []
    assert end_offsets(kafka_servers, DEAD_LETTERS) == letters, "who is told by the status has it all"
