"""The client of Labs' intake, against a server that remembers what it was asked (Labs, row P16)."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from tally_client.entries import FuncEntry
from tally_client.labs import LabsClient, Product, transaction_of
from tally_client.outcomes import Outcome
from tally_client.recorders import LabsRecorder, get_analytics_recorder
from tally_client.tokens import bearer

from gateway import analytics_txn
from tests.client.fast_clock import FastClock
from tests.client.labs_client import DATA, SetClock, a_client
from tests.client.labs_server import CUT, LabsServer, Reply, labs_server


@pytest.fixture
def server() -> Iterator[LabsServer]:
    with labs_server() as server:
        yield server


def a_dead_url() -> str:
    """Return the URL of a port where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


# What is sent.


def test_a_transaction_is_posted_as_the_intake_wants_it(server: LabsServer) -> None:
    """P16: path, body and headers; the timestamp is now, in seconds as a float; who sends it is said by the token."""
    with a_client(server.url, bearer("t0ken"), clock=SetClock()) as client:
        assert client.submit(DATA, Product.PCR, "judtin")
        assert client.flush()
    (asked,) = server.asked
    assert asked.path == "/analytics/"
    assert asked.txn == {"product": 5, "pennkey": "judtin", "timestamp": 1704067200.75, "data": DATA}
    assert asked.headers["Authorization"] == "Bearer t0ken"
    assert asked.headers["Content-Type"] == "application/json"
    assert asked.headers["X-Request-Id"] == asked.key
    assert client.stats() == (1, 1, {}, 0)


@pytest.mark.parametrize("product", Product)
def test_every_product_is_sent_as_its_number(product: Product, server: LabsServer) -> None:
    """P17: submit(product=Product.OTHER) must send 0, where the client's own product is another; P4: eleven values."""
    assert len(Product) == 11
    with a_client(server.url) as client:
        client.submit([], product=product)
        client.submit([])
        assert client.flush()
    assert sorted(asked.txn["product"] for asked in server.asked) == sorted([int(product), 10])


@pytest.mark.parametrize("timestamp", [None, 0, 12.5, datetime(2024, 1, 1, tzinfo=UTC)])
def test_the_intake_takes_what_is_composed(timestamp: Any) -> None:
    """P3 from both ends: the gateway's own reader, which refuses everything that is not exactly so, finds what was meant."""
    assert {each.name: each.value for each in Product} == {each.name: each.value for each in analytics_txn.Product}
    data = [{"key": "O'Brien", "value": '"x" 😀'}]
    for product in Product:
        for pennkey in (None, "judtin"):
            txn = analytics_txn.read_txn(transaction_of(data, product, pennkey, timestamp).encode())
            assert (txn.product, txn.pennkey, [(each.key, each.value) for each in txn.data]) == (
                product.value,
                pennkey,
                [("O'Brien", '"x" 😀')],
            )


def test_the_default_product_is_other_and_sent_as_0(server: LabsServer) -> None:
    """P17: 0 is a product, not the lack of one."""
    with LabsClient(server.url) as client:
        client.submit([])
        assert client.flush()
    assert server.asked[0].txn["product"] == 0


@pytest.mark.parametrize(
    ("timestamp", "sent"),
    [(0, 0), (-5, -5), (12.5, 12.5), (datetime(2024, 1, 1, tzinfo=UTC), 1704067200.0)],
)
def test_a_given_timestamp_is_sent(timestamp: Any, sent: float, server: LabsServer) -> None:
    """P16: seconds or a datetime. 0 is a time, not the lack of one."""
    with a_client(server.url) as client:
        client.submit(DATA, timestamp=timestamp)
        assert client.flush()
    assert (server.asked[0].txn["timestamp"], server.asked[0].txn["pennkey"]) == (sent, None)


def test_what_is_submitted_is_what_is_sent_later(server: LabsServer) -> None:
    """P16: callers go on to use their lists; the background must not see it."""
    server.hold.clear()
    data = [{"key": "first", "value": "1"}]
    with a_client(server.url, threads=1) as client:
        client.submit([])
        client.submit(data)
        data[0]["key"] = "changed"
        data.clear()
        server.hold.set()
        assert client.flush()
    assert server.asked[1].txn["data"] == [{"key": "first", "value": "1"}]


# What comes back.


@pytest.mark.parametrize("status", [CUT, 408, 429, 500, 502, 503, 504])
def test_a_transaction_is_sent_again_by_the_same_key(status: int, server: LabsServer) -> None:
    """P16 with P14: whether the first attempt was stored is unknown, so every attempt has the same key and body."""
    server.replies.extend([Reply(status), Reply(status)])
    with a_client(server.url) as client:
        client.submit(DATA, pennkey="judtin")
        assert client.flush()
        assert client.stats() == (1, 1, {}, 0)
    assert len(server.asked) == 3
    assert len({(asked.key, asked.body) for asked in server.asked}) == 1
    assert [asked.headers["X-Attempt"] for asked in server.asked] == ["1", "2", "3"]


def test_equal_transactions_are_two(server: LabsServer) -> None:
    """P14: without keys of their own the intake would take the second for the first sent again."""
    with a_client(server.url) as client:
        client.submit(DATA, timestamp=5)
        client.submit(DATA, timestamp=5)
        assert client.flush()
    assert len({asked.body for asked in server.asked}) == 1
    assert len({asked.key for asked in server.asked}) == 2


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 415, 422])
def test_a_refused_transaction_is_told_once_and_not_sent_again(status: int, server: LabsServer) -> None:
    """P16: what is refused for good is surfaced; a transaction is atomic (P6), so 413 does not split it."""
    told: list[Outcome] = []
    server.replies.append(Reply(status, {"detail": "data: should be a list"}))
    with a_client(server.url, bearer("t"), on_error=told.append) as client:
        client.submit(DATA)
        assert client.flush()
        code = "event_too_large" if status == 413 else f"http_{status}"
        assert client.stats() == (1, 0, {code: 1}, 0)
    assert len(server.asked) == 1
    (outcome,) = told
    assert (outcome.code, outcome.detail, outcome.event["data"]) == (code, "data: should be a list", DATA)


def test_a_server_that_asks_to_wait_is_left_alone_by_all(server: LabsServer) -> None:
    """P16: Retry-After is a minimum, and what is submitted meanwhile does not go round it."""
    server.replies.append(Reply(503, headers={"Retry-After": "0.5"}))
    with a_client(server.url) as client:
        client.submit([{"key": "first", "value": "1"}])
        server.wait_for(lambda: len(server.asked) == 1)
        while client._pool._failures == 0:  # The answer is on its way; the next are submitted after it.
            time.sleep(0.001)
        for _ in range(20):
            client.submit(DATA)
        assert client.flush()
    first, *later = server.asked
    assert len(later) == 21
    assert min(asked.at_s for asked in later) - first.at_s >= 0.5


def test_a_server_that_is_down_is_asked_by_ten_at_a_time_with_pauses(server: LabsServer) -> None:
    """P16: what waits must not fall upon a server that struggles. Each round of ten is followed by at least 100 ms."""
    server.replies.extend([Reply(503)] * 60)
    with a_client(server.url) as client:
        for _ in range(60):
            client.submit(DATA)
        server.wait_for(lambda: len(server.asked) >= 30)
    times_s = [asked.at_s for asked in server.asked]
    assert times_s[29] - times_s[0] >= 2 * 0.1


def test_a_server_that_is_back_is_forgiven(server: LabsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """P16: pauses double while it is down, to 30 s; after a success the next failure costs a short one again."""
    waited_s: list[float] = []

    class Listening(FastClock):
        def wait_s(self, seconds: float) -> float:
            waited_s.append(seconds)
            return super().wait_s(seconds)

    monkeypatch.setattr("tally_client.pool.random.random", lambda: 1.0)
    with a_client(server.url, clock=Listening(), threads=1) as client:
        for failures, longest_s in ((4, 3.2), (1, 0.4)):
            waited_s.clear()
            server.replies.extend([Reply(503)] * failures)
            client.submit(DATA)
            assert client.flush()
            assert longest_s * 0.5 < max(waited_s) <= longest_s


def test_a_redirect_keeps_the_authorization(server: LabsServer) -> None:
    """P16: the original answers 307 to the other spelling of the path; body and token must arrive there."""
    server.replies.append(Reply(307, headers={"Location": "/v2/analytics/"}))
    with a_client(server.url, bearer("t0ken")) as client:
        client.submit(DATA)
        assert client.flush()
    assert [asked.path for asked in server.asked] == ["/analytics/", "/v2/analytics/"]
    assert len({(asked.body, asked.key, asked.headers["Authorization"]) for asked in server.asked}) == 1


def test_a_redirect_to_another_host_gets_no_token(server: LabsServer) -> None:
    """P16: the original warns of exactly this leak."""
    with labs_server() as other:
        server.replies.append(Reply(307, headers={"Location": f"{other.url}/analytics/"}))
        with a_client(server.url, bearer("t0ken")) as client:
            client.submit(DATA)
            assert client.flush()
        assert other.asked[0].txn["data"] == DATA
        assert "Authorization" not in other.asked[0].headers


# What can go wrong.


def test_a_server_that_is_down_costs_the_caller_nothing() -> None:
    """P16: server down -> no exception to the caller, counter of drops, each told once."""
    told: list[Outcome] = []
    with a_client(a_dead_url(), on_error=told.append, transactions_max=5) as client:
        assert [client.submit(DATA) for _ in range(8)] == [True] * 5 + [False] * 3
        assert client.stats() == (5, 0, {"queue_full": 3}, 5)
        assert not client.flush(0.01)
    assert client.stats() == (5, 0, {"queue_full": 3, "not_sent": 5}, 0)
    assert len({outcome.event_id for outcome in told}) == 8
    assert not client.submit(DATA)
    assert client.stats().failed["closed"] == 1


def test_bytes_in_memory_are_bounded() -> None:
    """P16: a transaction may be large; ten thousand of them must not be the end of the product."""
    with a_client(a_dead_url(), bytes_max=100_000) as client:
        big = [{"key": "k", "value": "v" * 40_000}]
        assert [client.submit(big) for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize(
    "wrong",
    [
        {"data": DATA, "product": 99},
        {"data": DATA, "product": "PCR"},
        {"data": DATA, "timestamp": float("nan")},
        {"data": [{"key": "k", "value": object()}]},
        {"data": ["no datapoint"]},
        {"data": None},
    ],
)
def test_what_cannot_be_sent_is_counted_and_not_raised(wrong: dict[str, Any], server: LabsServer) -> None:
    """P16: a mistake in what is analyzed must not break what is done."""
    with a_client(server.url) as client:
        assert not client.submit(**wrong)
        assert client.stats() == (0, 0, {"invalid_transaction": 1}, 0)
    assert not server.asked


def test_a_transaction_is_given_up_after_its_age(server: LabsServer) -> None:
    """P16: the intake knows a key again for 48 h; what is older must not be sent once more."""
    clock = SetClock()
    server.hold.clear()
    server.replies.append(Reply(503))
    with a_client(server.url, clock=clock, age_s_max=3600) as client:
        client.submit(DATA)
        server.wait_for(lambda: len(server.asked) == 1)
        clock.skipped_s = 3601
        server.hold.set()
        assert client.flush()
        assert client.stats() == (1, 0, {"too_old": 1}, 0)
    assert len(server.asked) == 1


def test_callbacks_may_raise_and_flush(server: LabsServer) -> None:
    """P16: a callback is somebody else's code, and runs where the sending is done."""
    flushed: list[bool] = []

    def on_error(_outcome: Outcome) -> None:
        flushed.append(client.flush(5))
        raise LookupError("a mistake in a callback")

    server.replies.append(Reply(400))
    with a_client(server.url, on_error=on_error) as client:
        client.submit(DATA)
        assert client.flush()
        client.submit(DATA)
        assert client.flush()
        assert client.stats() == (2, 1, {"http_400": 1}, 0)
    assert flushed == [True]


def test_nothing_that_was_sent_is_in_the_log(server: LabsServer, caplog: pytest.LogCaptureFixture) -> None:
    """Rows of users and tokens do not belong there, whatever goes wrong."""
    server.replies.extend([Reply(400, {"detail": "no"}), Reply(500)])
    with a_client(server.url, bearer("s3cret"), on_error=lambda outcome: {}[outcome.event["pennkey"]]) as client:
        for _ in range(3):
            client.submit([{"key": "k", "value": "pr1vate"}], pennkey="judtin")
        client.submit([{"key": "k", "value": object()}], pennkey="judtin")  # type: ignore[dict-item]
        assert client.flush()
    assert caplog.records
    assert not [word for word in ("s3cret", "pr1vate", "judtin") if word in caplog.text]


# Recorders.


def test_a_recorder_submits_in_the_background(server: LabsServer) -> None:
    """P17 over P16: what a decorated function does is sent; a server that is down does not touch the function."""
    with a_client(server.url, product=Product.OHQ) as client:

        @LabsRecorder(client).record_function(FuncEntry(name="sum", get_value=lambda _args, total: total))
        def add(a: int, b: int) -> int:
            return a + b

        server.replies.append(Reply(503))
        assert add(1, 2) == 3
        assert client.flush()
    first, second = (asked.txn for asked in server.asked)
    assert first == second
    assert (first["product"], first["data"][0]["value"]) == (9, "3")
    assert first["data"][0]["key"].endswith("<locals>.add.sum")


def test_the_environment_chooses_the_recorder(server: LabsServer, capsys: pytest.CaptureFixture[str]) -> None:
    """P17: as in the original, a product asks for its recorder by one call, in production as in development."""
    settings = {"ANALYTICS_URL": server.url, "PLATFORM_URL": server.url, "CLIENT_ID": "id", "CLIENT_SECRET": "s3cret"}
    recorder = get_analytics_recorder(Product.PDP, environment=settings)
    assert isinstance(recorder, LabsRecorder)
    with recorder.client as client:
        recorder.submit(DATA)
        assert client.flush()
    assert [asked.path for asked in server.asked] == ["/identity/attest/", "/analytics/"]
    assert server.asked[1].txn["product"] == 6
    get_analytics_recorder(Product.PDP, environment={**settings, "CLIENT_SECRET": ""}).submit(DATA)
    get_analytics_recorder(Product.PDP, True, environment=settings).submit(DATA)
    assert capsys.readouterr().out.count('"product":6') == 1
    assert len(server.asked) == 2
