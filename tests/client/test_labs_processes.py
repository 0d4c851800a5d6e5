"""The client of Labs' intake among threads, forks and ends of processes (Labs, row P16)."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client.labs_client import DATA, a_client
from tests.client.labs_server import CUT, LabsServer, Reply, labs_server

CLIENT = Path(__file__).parents[2] / "client"


@pytest.fixture
def server() -> Iterator[LabsServer]:
    with labs_server() as server:
        yield server


def test_ten_requests_are_in_flight_at_most(server: LabsServer) -> None:
    """P16: a pool of 10 threads; the eleventh waits its turn."""
    server.hold.clear()
    with a_client(server.url) as client:
        for _ in range(25):
            client.submit(DATA)
        server.wait_for(lambda: len(server.asked) == 10)
        assert len([thread for thread in threading.enumerate() if thread.name == "tally-labs"]) == 10
        assert len(server.asked) == 10
        server.hold.set()
        assert client.flush()
    assert len({asked.key for asked in server.asked}) == len(server.asked) == 25


def test_every_transaction_of_many_threads_arrives_through_faults(server: LabsServer) -> None:
    """P16: 8 threads submit while a third of the answers fail: none is lost, and by its key none counts twice."""
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    server.replies.extend(Reply(chance.choice([200, 200, 200, 200, 503, CUT])) for _ in range(400))

    def submit(thread: int) -> None:
        for n in range(50):
            assert client.submit([{"key": f"{thread}.{n}", "value": "1"}])

    with a_client(server.url) as client:
        threads = [threading.Thread(target=submit, args=(thread,)) for thread in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert client.flush(60), f"seed {seed}"
        assert client.stats() == (400, 400, {}, 0)
    names = {asked.key: asked.txn["data"][0]["key"] for asked in server.asked}
    assert sorted(names.values()) == sorted(f"{thread}.{n}" for thread in range(8) for n in range(50)), f"seed {seed}"


def run(code: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a Python of its own with the client."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], env={"PYTHONPATH": str(CLIENT)}, stdout=subprocess.PIPE, text=True
    )


def test_parent_and_child_send_their_own(server: LabsServer) -> None:
    """P16 behind servers that fork: what the parent had waiting is not sent by its child too, and both go on."""
    code = """
import os, sys
from tally_client.labs import LabsClient
client = LabsClient(sys.argv[1])
for n in range(20):
    client.submit([{"key": f"before.{n}", "value": "1"}])
child = os.fork()
client.submit([{"key": "child" if child == 0 else "parent", "value": "1"}])
assert client.flush()
if child == 0:
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""
    server.hold.clear()
    ended = run(code, server.url)
    server.wait_for(lambda: len(server.asked) >= 10)
    server.hold.set()
    ended.communicate(timeout=30)
    assert ended.returncode == 0
    sent = [asked.txn["data"][0]["key"] for asked in server.asked]
    assert sorted(sent) == sorted([f"before.{n}" for n in range(20)] + ["child", "parent"])


def test_the_end_of_a_process_sends_what_waits(server: LabsServer) -> None:
    """P16: a script that submits and ends has submitted."""
    code = "import sys; from tally_client.labs import LabsClient; LabsClient(sys.argv[1]).submit([])"
    ended = run(code, server.url)
    ended.communicate(timeout=30)
    assert (ended.returncode, len(server.asked)) == (0, 1)


def test_a_server_that_does_not_answer_holds_no_process_up(server: LabsServer) -> None:
    """The contract's bound: the exit takes 2 s at most, whatever the server does."""
    code = """
import sys
from tally_client.labs import LabsClient
client = LabsClient(sys.argv[1])
for n in range(30):
    client.submit([])
sys.stdout.write("the end\\n"); sys.stdout.flush()
"""
    server.hold.clear()
    process = run(code, server.url)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "the end\n"
        began_s = time.monotonic()
        assert process.wait(timeout=30) == 0
    assert time.monotonic() - began_s < 2.0 + 0.5  # The interpreter itself ends too.
