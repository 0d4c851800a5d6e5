"""Capture events from several threads as fast as they go, each call timed: `python -m bench.client_load`; one JSON line.

Nothing of the server is loaded, as in a producer. It ends when every event is delivered or told as failed. A thread that the
kernel stops in the middle of a call has that call take milliseconds, whoever made it: `preempted` says how often it did.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import threading
from time import perf_counter, perf_counter_ns

from tally_client import AnalyticsClient, Options

QUEUE_BYTES_MAX = 200_000_000
FLUSH_S = 120.0
SHARES = (0.5, 0.95, 0.99, 0.999)
SLOW_NS = 50_000
"""The bound of issue 7: 99 of 100 calls take less."""


def main(arguments: list[str] | None = None) -> int:
    """Return the exit code: 1 when not everything was done within `FLUSH_S`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="of the gateway")
    parser.add_argument("--threads", type=int, default=10)
    parser.add_argument("--events", type=int, default=10_000, help="of each thread")
    parser.add_argument("--key", help="API key")
    parser.add_argument("--product")
    given = parser.parse_args(arguments)
    options = Options(queue_events_max=given.threads * given.events, queue_bytes_max=QUEUE_BYTES_MAX, product=given.product)
    client = AnalyticsClient(given.url, given.key, options)
    before, began_s = resource.getrusage(resource.RUSAGE_SELF), perf_counter()
    took_ns = captured(client, given.threads, given.events)
    captured_s, preempted = perf_counter() - began_s, resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw - before.ru_nivcsw
    done = client.flush(FLUSH_S)
    after = resource.getrusage(resource.RUSAGE_SELF)
    said = {
        **percentiles_us(took_ns),
        "slow": sum(took >= SLOW_NS for took in took_ns),
        "preempted": preempted,
        "captured_s": captured_s,
        "done_s": perf_counter() - began_s,
        "cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "stats": client.stats()._asdict(),
    }
    sys.stdout.write(json.dumps(said) + "\n")
    return 0 if done else 1


def captured(client: AnalyticsClient, thread_count: int, events: int) -> list[int]:
    """Capture so many events in each thread; return how long (ns) each call took, in rising order."""
    took_ns: list[list[int]] = [[] for _ in range(thread_count)]

    def capture(number: int) -> None:
        took, user_id = took_ns[number], f"user-{number}"
        for position in range(events):
            began_ns = perf_counter_ns()
            client.capture("clicked", user_id, {"page": "/home", "position": position})
            took.append(perf_counter_ns() - began_ns)

    threads = [threading.Thread(target=capture, args=(number,)) for number in range(thread_count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(took for thread in took_ns for took in thread)


def percentiles_us(rising_ns: list[int]) -> dict[str, float]:
    """Return what so large a share of the calls stays at or under, µs."""
    return {f"p{share * 100:g}_us": rising_ns[int((len(rising_ns) - 1) * share)] / 1_000 for share in SHARES}


if __name__ == "__main__":
    sys.exit(main())
