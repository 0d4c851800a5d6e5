"""Use every part of the client once, on whatever Python runs this, and from wherever it is installed."""

from __future__ import annotations

import asyncio
import os
import sys
from types import SimpleNamespace

from tally_client import AnalyticsClient, AsyncAnalyticsClient, Options, bearer
from tally_client.entries import FuncEntry, UnaryFuncEntry, ViewEntry
from tally_client.labs import LabsClient, Product
from tally_client.recorders import LabsRecorder

COMPRESSIONS = (None, "gzip", "deflate")


def main() -> None:
    url, spool = sys.argv[1:]
    for compression in COMPRESSIONS:
        with AnalyticsClient(url, "a-key", Options(compression=compression, spool=spool)) as client:
            client.capture("clicked", "user-1", {"page": "/home"})
            client.capture("clicked", anonymous_id="user-2", time="2025-01-02T08:34:05+05:30", durable=True)
            assert client.flush(20.0)
    pid = os.fork()
    if pid == 0:
        with AnalyticsClient(url, options=Options(sync=True)) as client:
            client.capture("clicked", "user-3")
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    asyncio.run(on_a_loop(url, spool))
    with LabsClient(url, bearer("a-token"), product=Product.CLUBS) as labs:
        record(LabsRecorder(labs))
        assert labs.flush(20.0)


async def on_a_loop(url: str, spool: str) -> None:
    async with AsyncAnalyticsClient(url, bearer("a-token"), Options(spool=spool)) as client:
        await client.capture("clicked", "user-4")
        await client.capture("clicked", "user-5", durable=True)
        assert await client.flush(20.0)
        assert client.stats().delivered == 2


def record(recorder: LabsRecorder) -> None:
    """Record a function of each kind and a view."""

    @recorder.record_function(FuncEntry(), UnaryFuncEntry(name="double", get_value=lambda number, doubled: doubled))
    def double(number: int) -> int:
        return 2 * number

    @recorder.record_function(FuncEntry(name="later"), get_username=lambda args, returned: args[0])
    async def later(user: str) -> None: ...

    @recorder.record_apiview(ViewEntry(), ViewEntry.time, ViewEntry.status)
    class Clubs:
        def dispatch(self, request: SimpleNamespace) -> SimpleNamespace:
            return self.get(request)

        @recorder.record_api_function(FuncEntry(name="got"))
        def get(self, request: SimpleNamespace) -> SimpleNamespace:
            return SimpleNamespace(status_code=200)

    double(2)
    asyncio.run(later("judtin"))
    found = SimpleNamespace(view_name="clubs:list")
    Clubs().dispatch(SimpleNamespace(method="GET", user=SimpleNamespace(username="judtin"), resolver_match=found))


if __name__ == "__main__":
    main()
