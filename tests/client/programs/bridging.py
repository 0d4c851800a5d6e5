"""Capture durably while nobody listens, and try for minutes of a fast clock; then hang, or deliver all that the spool holds."""

from __future__ import annotations

import json
import os
import signal
import sys
import time

from tally_client import AnalyticsClient, Options

from tests.client.fast_clock import FastClock

EVENTS = 300
OUTAGE_S = 300.0
SPEED = 120.0
"""Two minutes a second: of the clock by which the client waits, backs off and ages."""
FLUSH_S = 3_600.0


class Clock(FastClock):
    """A fast clock whose wall is the machine's: gateways mark events of times to come."""

    def wall_s(self) -> float:
        return time.time()


def main() -> None:
    url, key, spool, what = sys.argv[1:]
    clock = Clock(SPEED)
    client = AnalyticsClient(url, key, Options(spool=spool, durable=True, product="bridged", clock=clock))
    ids = [client.capture("bridged", f"user-{number % 7}") for number in range(EVENTS)]
    time.sleep(clock.wait_s(OUTAGE_S))
    os.write(1, (json.dumps({"ids": ids, "delivered": client.stats().delivered}) + "\n").encode())
    if what == "hang":
        signal.pause()
    assert client.flush(FLUSH_S)


if __name__ == "__main__":
    main()
