"""Capture on a loop that ends in the middle of a request; nobody closes the client."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time

from tally_client import AsyncAnalyticsClient, Options


async def capture(url: str, spool: str) -> None:
    client = AsyncAnalyticsClient(url, options=Options(spool=spool))
    ids = [await client.capture("left", "user-1") for _ in range(500)]
    await client.flush(0.1)
    os.write(1, (json.dumps({"ids": ids, "at_s": time.time(), "spooled": True}) + "\n").encode())


if __name__ == "__main__":
    asyncio.run(capture(*sys.argv[1:]))
