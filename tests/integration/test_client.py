"""The client library against the gateway as it is joined, with Kafka, a worker, the sinks and Postgres behind it, and trouble.

What counts is what Postgres has at the end: each event once, however often it was sent.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tally_client import Options, Outcome, PlatformTokens
from tally_client.entries import FuncEntry
from tally_client.labs import LabsClient, Product
from tally_client.recorders import LabsRecorder

from stack.postgres import LocalPostgres
from tests.client.clients import KINDS, AnyClient, Threads
from tests.client.labs_client import SetClock
from tests.support.eventually import eventually
from tests.support.key_server import CLIENT, SECRET
from tests.support.producers import MACHINE, Chain, redirecting, running_chain
from tests.tidy.tree import ROOT

BRIDGING = ROOT / "tests" / "client" / "programs" / "bridging.py"
FLUSH_S = 60.0
THREADS, EVENTS = 10, 1_000
LARGE_BATCH_BYTES = 1_500_000


@pytest.fixture(scope="module")
def chain(postgres: LocalPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """One job for all tests of this file; each has a product of its own."""
    with running_chain(postgres, tmp_path_factory.mktemp("producers")) as chain:
        yield chain


@contextmanager
def opened(kind: type[AnyClient], url: str, credentials: Any, **options: Any) -> Iterator[AnyClient]:
    """Open a client, and close it whatever happens."""
    client = kind(url, credentials, Options(**options))
    try:
        yield client
    finally:
        client.end()


def captured(client: AnyClient, count: int, **fields: Any) -> list[str]:
    """Capture so many events of some users; return their ids when each is delivered."""
    ids = [client.capture("clicked", f"user-{number % 7}", **fields) for number in range(count)]
    assert client.flush(FLUSH_S)
    assert client.stats() == (count, count, {}, 0)
    return [event_id for event_id in ids if event_id is not None]


def once(ids: list[str]) -> Counter[str]:
    """Return how often each event shall be stored."""
    assert len(ids) == len(set(ids)) > 0
    return Counter(ids)


@pytest.mark.parametrize("compression", [None, "zstd"])
@pytest.mark.parametrize("kind", KINDS)
def test_events_are_stored_as_captured_and_count_once(kind: type[AnyClient], compression: str | None, chain: Chain) -> None:
    """With an API key, whose name is the source. The same id captured again is told as a duplicate, and is no second row."""
    product = f"once-{kind.__name__}-{compression}"
    told: list[Outcome] = []
    with opened(kind, chain.url, chain.key, product=product, compression=compression, on_success=told.append) as client:
        given = [{"text": f"O'Brien \u2603 {number}", "deep": {"n": number}} for number in range(250)]
        ids = [client.capture("clicked", f"user-{number}", properties=each) for number, each in enumerate(given)]
        assert client.flush(FLUSH_S)
        for number, event_id in enumerate(ids):
            client.capture("again", f"user-{number}", id=event_id)
        assert client.flush(FLUSH_S)
    assert Counter(outcome.result for outcome in told) == {"ok": 250, "duplicate": 250}
    rows = {row.event_id: row for row in chain.stored(product)}
    assert [rows[str(event_id)].properties for event_id in ids] == given
    assert {(row.datapoint, row.source) for row in rows.values()} == {("clicked", MACHINE)}
    assert chain.counted(product) == once([str(event_id) for event_id in ids])


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_that_is_too_large_is_split(kind: type[AnyClient], chain: Chain) -> None:
    """413 of a gateway that takes less than the client thinks: halves, as new requests, until they fit."""
    product = f"large-{kind.__name__}"
    options = Options(product=product, batch_events_max=30, batch_wait_s=FLUSH_S)
    object.__setattr__(options, "batch_bytes_max", LARGE_BATCH_BYTES)  # More than the client lets anybody say.
    before = chain.answers("events", 413)
    client = kind(chain.url, chain.key, options)
    try:
        ids = captured(client, 30, properties={f"text-{number}": "x" * 8_000 for number in range(6)})
    finally:
        client.end()
    assert chain.answers("events", 413) - before == 1
    assert chain.counted(product) == once(ids)


def test_what_is_over_a_quota_waits_and_arrives(chain: Chain) -> None:
    """429: it is sent again when the gateway says, and nothing is given up."""
    before = chain.answers("events", 429)
    with opened(Threads, chain.url, chain.limited_key, product="limited") as client:
        ids = captured(client, 300)
    assert chain.answers("events", 429) > before
    assert chain.counted("limited") == once(ids)


@pytest.mark.parametrize("kind", KINDS)
def test_what_kafka_does_not_acknowledge_is_sent_until_it_does(kind: type[AnyClient], chain: Chain) -> None:
    """503 with Retry-After. Kafka may have written what it did not acknowledge, so some come twice, and count once."""
    product = f"frozen-{kind.__name__}"
    before = chain.answers("events", 503)
    with opened(kind, chain.url, chain.key, product=product) as client:
        with chain.frozen_kafka():
            ids = [str(client.capture("clicked", f"user-{number}")) for number in range(200)]
            assert not client.flush(0.1)
            client.wait_for(lambda: chain.answers("events", 503) > before)
        assert client.flush(FLUSH_S)
        assert client.stats() == (200, 200, {}, 0)
    assert chain.counted(product) == once(ids)


def test_a_redirect_keeps_the_key_on_its_host_only(chain: Chain) -> None:
    """P16: 307 within a host arrives as who sent it. Another host is not shown the key, so the gateway there knows nobody."""
    told: list[Outcome] = []
    with redirecting(chain.url) as front:
        with opened(Threads, f"{front}/moved", chain.key, product="moved") as client:
            ids = captured(client, 10)
        with opened(Threads, f"{front}/elsewhere", chain.key, product="moved", on_error=told.append) as client:
            client.capture()
            assert client.flush(FLUSH_S)
    assert chain.counted("moved") == once(ids)
    assert {row.source for row in chain.stored("moved")} == {MACHINE}
    assert [outcome.code for outcome in told] == ["http_401"]


def test_tokens_are_renewed_thirty_seconds_before_they_expire(chain: Chain) -> None:
    """P9, P16, P17: both intakes take the tokens; each client attests once, and refreshes once."""
    clocks = SetClock(), SetClock()
    mine, theirs = (PlatformTokens(chain.platform_url, CLIENT, SECRET, clock=clock) for clock in clocks)
    ids: list[str | None] = []
    chain.platform.asked.clear()
    with opened(Threads, chain.url, mine, product=CLIENT) as client, LabsClient(chain.url, theirs, product=Product.PCR) as labs:

        @LabsRecorder(labs).record_function(
            FuncEntry(), FuncEntry(name="sum", get_value=lambda args, total: total), get_username=lambda args, total: "judtin"
        )
        def add(one: int, two: int) -> int:
            return one + two

        for skipped_s in (0, 3_569, 3_571):
            for clock in clocks:
                clock.skipped_s = skipped_s
            ids.append(client.capture())
            add(2, skipped_s)
            assert client.flush(FLUSH_S) and labs.flush(FLUSH_S)
            assert chain.platform.asked.count("/identity/refresh/") == (2 if skipped_s == 3_571 else 0)
        assert client.stats().failed == labs.stats().failed == {}
    assert chain.platform.asked.count("/identity/attest/") == 2
    assert chain.counted(CLIENT) == once([str(event_id) for event_id in ids])
    rows = chain.stored("PCR")
    name = add.__module__ + "." + add.__qualname__
    assert Counter(row.datapoint for row in rows) == {name: 3, f"{name}.sum": 3}
    assert {(row.user, row.source) for row in rows} == {("judtin", f"urn:pennlabs:{CLIENT}")}


def test_ten_threads_lose_nothing_when_the_gateway_is_killed(chain: Chain) -> None:
    """Issue 7, numbers, in short; `bench/cases/client.py` is the long form, with the times. Native and Labs clients at once."""
    plan = ["--threads", str(THREADS), "--events", str(EVENTS), "--product", "threads", "--key", chain.key]
    producer = started("-m", "bench.client_load", *plan, chain.url)
    tokens = PlatformTokens(chain.platform_url, CLIENT, SECRET)
    with LabsClient(chain.url, tokens, product=Product.OHQ) as labs:
        for number in range(500):
            assert labs.submit([{"key": f"n{number}", "value": "1"}, {"key": f"n{number}", "value": "2"}], pennkey="judtin")
        eventually(lambda: chain.answers("events", 200) > 10 and labs.stats().delivered > 50, what="some are delivered")
        chain.kill_gateway()
        chain.start_gateway()
        assert labs.flush(FLUSH_S)
        assert labs.stats() == (500, 500, {}, 0)
    assert said(producer)["stats"] == {"accepted": 10_000, "delivered": 10_000, "failed": {}, "waiting": 0}
    rows = chain.stored("threads")
    found = Counter((row.user, row.properties["position"]) for row in rows if row.properties is not None)
    assert found == Counter((f"user-{thread}", position) for thread in range(THREADS) for position in range(EVENTS))
    assert Counter(row.datapoint for row in chain.stored("OHQ")) == {f"n{number}": 2 for number in range(500)}


def test_a_spool_bridges_minutes_of_outage_and_a_kill(chain: Chain, tmp_path: Path) -> None:
    """The gateway is down for ten minutes of the clients' clocks; the first producer is killed meanwhile."""
    spool = str(tmp_path / "spool")
    chain.kill_gateway()
    try:
        killed = started(str(BRIDGING), chain.url, chain.key, spool, "hang")
        assert killed.stdout is not None
        first = json.loads(killed.stdout.readline())
        os.kill(killed.pid, signal.SIGKILL)
        killed.communicate()
        following = started(str(BRIDGING), chain.url, chain.key, spool, "deliver")
        assert following.stdout is not None
        second = json.loads(following.stdout.readline())
    finally:
        chain.start_gateway()
    assert said(following, expected=0) == {}
    assert first["delivered"] == second["delivered"] == 0
    assert chain.counted("bridged") == once(first["ids"] + second["ids"])


def started(*command: str) -> subprocess.Popen[str]:
    """Start a producer as a process; it says things as lines of JSON."""
    path = os.pathsep.join(map(str, (ROOT / "client", ROOT)))
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore::DeprecationWarning"}
    return subprocess.Popen([sys.executable, *command], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)


def said(process: subprocess.Popen[str], *, expected: int = 1) -> Mapping[str, Any]:
    """Return what a producer says last, when it has ended well."""
    try:
        out, _ = process.communicate(timeout=FLUSH_S)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0
    lines = [json.loads(line) for line in out.splitlines()]
    assert len(lines) == expected
    return lines[-1] if lines else {}
