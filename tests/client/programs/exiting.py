"""Capture and come to the last line, with a collector that never answers; by itself nothing is closed."""

from __future__ import annotations

import json
import os
import sys
import time

from tally_client import AnalyticsClient, Options


def say(what: object) -> None:
    os.write(1, (json.dumps(what) + "\n").encode())


def main() -> None:
    url, *spool = sys.argv[1:]
    options = Options(
        spool=spool[0] if spool else None, on_error=lambda outcome: say({"id": outcome.event_id, "code": outcome.code})
    )
    client = AnalyticsClient(url, options=options)
    ids = [client.capture("left", "user-1") for _ in range(500)]
    client.flush(0.1)
    say({"ids": ids, "at_s": time.time(), "spooled": bool(spool)})


if __name__ == "__main__":
    main()
