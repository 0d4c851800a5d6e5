"""Every choice a client has, with its limits."""

from __future__ import annotations

import os
import random
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tally_client.clock import SYSTEM_CLOCK, Clock
from tally_client.compression import compressor
from tally_client.delivery import Rules
from tally_client.outcomes import Outcome
from tally_client.owners import Owners
from tally_client.spool import Spool
from tally_client.transport import REQUEST_TIMEOUT_S

WHEN_FULL = ("drop_newest", "drop_oldest", "block", "spool")
SPOOL_WHEN_FULL = ("drop_newest", "drop_oldest")
BATCH_EVENTS_MAX = 1_000
BATCH_BYTES_MAX = 900_000
"""Below the 1 MB that the server takes, with room for the envelope."""
AGE_S_MAX = 86_400.0
"""Half of the 48 h in which the server knows an id again."""
SYNC_RETRIES = 3
"""Of a client with `sync=True` that says nothing else: its caller waits."""


@dataclass(frozen=True)
class Options:
    """How a client queues, sends, gives up and tells.

    Attributes:
        queue_events_max: events in memory that are not delivered yet, those on their way included; besides them at most
            one batch of the spool's.
        queue_bytes_max: the same in bytes of JSON.
        when_full: `drop_newest` refuses the new event, `drop_oldest` gives up the oldest, `block` waits for room up to
            *block_timeout_s* and then refuses, `spool` writes the new event to disk.
        block_timeout_s: see *when_full*.
        batch_events_max: a batch goes when it has so many events, …
        batch_bytes_max: … so many bytes, …
        batch_wait_s: … or when its oldest event has waited so long.
        compression: of bodies: `gzip`, `deflate`, `zstd` (with the extra of that name), or None.
        retries_max: attempts after the first; None: until *age_s_max* (3 with *sync*).
        age_s_max: an event that is not delivered after so long is given up; at most 24 h.
        request_timeout_s: for connecting and for each wait for bytes.
        exit_timeout_s: what `close` and the interpreter's exit may take.
        tls: how https is checked; the system's authorities by default.
        spool: a file for what must survive this process; several processes may share it. None: no spool.
        spool_bytes_max: of that file.
        spool_when_full: `drop_newest` or `drop_oldest`.
        durable: whether events go through the spool first where `capture` does not say.
        sync: `capture` delivers before it returns, and raises `DeliveryError` where it cannot.
        product, source: of every event that does not say its own.
        before_send: sees every event before it is encoded, and returns what is to be sent instead; None drops it in silence.
            Where it raises, the event is dropped, since it may have been about to remove something.
        on_success: called once for each delivered event.
        on_error: called once for each event that is not delivered and will not be.
        clock: another one for tests.
        jitter: returns a number in [0, 1) that spreads retries; another one for tests.
    """

    queue_events_max: int = 10_000
    queue_bytes_max: int = 32_000_000
    when_full: str = "drop_newest"
    block_timeout_s: float = 1.0
    batch_events_max: int = 100
    batch_bytes_max: int = BATCH_BYTES_MAX
    batch_wait_s: float = 1.0
    compression: str | None = None
    retries_max: int | None = None
    age_s_max: float = AGE_S_MAX
    request_timeout_s: float = REQUEST_TIMEOUT_S
    exit_timeout_s: float = 2.0
    tls: ssl.SSLContext | None = None
    spool: str | os.PathLike[str] | None = None
    spool_bytes_max: int = 100_000_000
    spool_when_full: str = "drop_newest"
    durable: bool = False
    sync: bool = False
    product: str | None = None
    source: str | None = None
    before_send: Callable[[dict[str, Any]], Mapping[str, Any] | None] | None = None
    on_success: Callable[[Outcome], object] | None = None
    on_error: Callable[[Outcome], object] | None = None
    clock: Clock = SYSTEM_CLOCK
    jitter: Callable[[], float] = random.random  # Python gives each forked child another seed of this one.

    def __post_init__(self) -> None:
        compressor(self.compression)
        at_least_one = ("queue_events_max", "queue_bytes_max", "batch_events_max", "batch_bytes_max")
        above_zero = ("batch_wait_s", "age_s_max", "request_timeout_s", "block_timeout_s", "exit_timeout_s")
        _demand([name for name in at_least_one if getattr(self, name) < 1], "must be at least 1")
        _demand([name for name in above_zero if not getattr(self, name) > 0], "must be more than 0")
        _demand(["batch_events_max"] * (self.batch_events_max > BATCH_EVENTS_MAX), f"must be at most {BATCH_EVENTS_MAX}")
        _demand(["batch_bytes_max"] * (self.batch_bytes_max > BATCH_BYTES_MAX), f"must be at most {BATCH_BYTES_MAX}")
        _demand(["age_s_max"] * (self.age_s_max > AGE_S_MAX), f"must be at most {AGE_S_MAX:g}")
        _demand(["when_full"] * (self.when_full not in WHEN_FULL), f"must be one of {WHEN_FULL}")
        _demand(["spool_when_full"] * (self.spool_when_full not in SPOOL_WHEN_FULL), f"must be one of {SPOOL_WHEN_FULL}")
        needs_spool = self.spool is None and (self.durable or self.when_full == "spool")
        _demand(["spool"] * needs_spool, "must be given with when_full='spool' or durable=True")
        _demand(["sync"] * (self.sync and self.spool is not None), "has no use for a spool: its caller hears of every failure")


def _demand(wrong: list[str], what: str) -> None:
    if wrong:
        raise ValueError(f"option {wrong[0]} {what}")


def rules_of(options: Options) -> Rules:
    """Return how a client with these options delivers."""
    retries_max = SYNC_RETRIES if options.sync and options.retries_max is None else options.retries_max
    return Rules(
        clock=options.clock,
        jitter=options.jitter,
        compress=compressor(options.compression),
        encoding=options.compression,
        retries_max=retries_max,
        age_s_max=options.age_s_max,
    )


def spool_of(options: Options) -> Spool | None:
    """Open the spool that the options name, if they do.

    Raises:
        SpoolError: it cannot be opened.
    """
    if options.spool is None:
        return None
    path, owners = os.fspath(options.spool), Owners(options.clock)
    return Spool(path, bytes_max=options.spool_bytes_max, drop_oldest=options.spool_when_full == "drop_oldest", owners=owners)
