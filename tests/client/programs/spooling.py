"""Capture durably into a spool while nobody listens, and hang or leave; or flush what is in one."""

from __future__ import annotations

import json
import os
import signal
import sys

from tally_client import AnalyticsClient, Options


def main() -> None:
    url, spool, what = sys.argv[1:]
    client = AnalyticsClient(url, options=Options(spool=spool, durable=True, exit_timeout_s=1.0))
    if what == "flush":
        assert client.flush(30.0)
        return
    ids = [client.capture("spooled", "user-1") for _ in range(300)]
    os.write(1, (json.dumps(ids) + "\n").encode())
    if what == "hang":
        signal.pause()


if __name__ == "__main__":
    main()
