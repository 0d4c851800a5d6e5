"""Capture in a process, in its forks, in a fork's fork and in children of multiprocessing, all with one client."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys

from tally_client import AnalyticsClient, Options

EVENTS = 200


def capture(client: AnalyticsClient, who: str) -> None:
    ids = [client.capture("forked", who) for _ in range(EVENTS)]
    os.write(1, (json.dumps({"who": who, "ids": ids}) + "\n").encode())


def child(client: AnalyticsClient, who: str, of_its_own: int) -> None:
    """Be a forked child, which ends without `atexit`, and after its own."""
    capture(client, who)
    if of_its_own > 0:
        assert os.waitstatus_to_exitcode(os.waitpid(of_its_own, 0)[1]) == 0
    done = client.flush(20.0)
    client.close()
    os._exit(0 if done else 1)


def main() -> None:
    client = AnalyticsClient(sys.argv[1], options=Options(batch_wait_s=0.01, batch_events_max=10))
    first = [client.capture("forked", "parent") for _ in range(EVENTS // 2)]
    pids = []
    for number in range(3):
        pid = os.fork()
        if pid == 0:
            grandchild = os.fork() if number == 0 else -1
            child(client, "child" if grandchild else "grandchild", grandchild)
        pids.append(pid)
    workers = [multiprocessing.get_context("fork").Process(target=capture, args=(client, "multiprocessing")) for _ in range(2)]
    for worker in workers:
        worker.start()
    rest = [client.capture("forked", "parent") for _ in range(EVENTS // 2)]
    os.write(1, (json.dumps({"who": "parent", "ids": first + rest}) + "\n").encode())
    for pid in pids:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    for worker in workers:
        worker.join(20)
        assert worker.exitcode == 0
    assert client.flush(20.0)


if __name__ == "__main__":
    main()
