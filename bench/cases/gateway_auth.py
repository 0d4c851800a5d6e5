"""What authentication costs at the front door: one event a request to `/v1/events`, without, with API keys, and with tokens.

Three gateways on one Kafka differ in nothing else, and the same closed loop is put on each in turn, several times, so that a
machine that changes meanwhile changes for all. Credentials are those of ten producers, as they come in every request: tokens of
the key server for development, keys of `python -m gateway.auth`. Every `ok` must be a record in the topic.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from string import ascii_lowercase
from typing import Any
from urllib.request import Request, urlopen

from bench.backlogs import run_folder
from bench.case import Case, Figure
from bench.cases.gateway import (
    ANSWER_TIMEOUT_S,
    CPU_UNIT,
    RATE_UNIT,
    Gateway,
    Load,
    checked_load,
    empty_kafka,
    put_load,
    running_gateway,
)
from bench.programs import running, wait_ready
from gateway.auth.api_keys import new_key
from gateway.auth.key_file import changing
from stack.ports import LOOPBACK, free_port
from streams.clock import SYSTEM_CLOCK
from streams.topics import EVENTS

CONNECTIONS = 64
WARM_UP_S = 2.0
TURN_S = 4.0
TURNS = 3
PRODUCERS = 10
SHARE_UNIT = "% of the rate without"
SHARE_GOAL = 80.0
AUDIENCE = "tally"
SECRET = "of-a-benchmark"  # noqa: S105 - of clients that live as long as a run


@dataclass
class Side:
    """A gateway, what its clients send, and what its turns have measured so far.

    Attributes:
        credentials: file of values of the header `Authorization`, one a line; None: there is none.
    """

    gateway: Gateway
    credentials: Path | None
    answered: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0

    @property
    def cpu_us(self) -> float:
        """CPU of the gateway, µs a request."""
        return self.cpu_s / self.answered * 1e6

    @property
    def rate(self) -> float:
        """Requests a second, wall."""
        return self.answered / self.wall_s

    def take_turn(self) -> None:
        """Put the load on, and count the records that it left in the topic.

        Raises:
            BenchError: they are not as many as were acknowledged.
        """
        loaded = checked_load(self.gateway, self._load(), seconds=TURN_S)
        self.answered += loaded.answered
        self.wall_s += loaded.wall_s
        self.cpu_s += loaded.gateway_cpu_s

    def warm_up(self) -> None:
        """Put the load on for a while and forget it: tokens are verified once."""
        put_load(self.gateway, self._load(), seconds=WARM_UP_S)

    def _load(self) -> Load:
        options: dict[str, object] = {"connections": CONNECTIONS, "events": 1}
        if self.credentials is not None:
            options["credentials"] = self.credentials
        return Load("bench.batch_load", EVENTS.topic, options)


def measure() -> Iterator[Figure]:
    """Run a Kafka, a key server and three gateways, and put the load on each in turn."""
    with run_folder() as home, empty_kafka(home) as servers, ExitStack() as stack:
        sides = {name: stack.enter_context(run(servers, home)) for name, run in SIDES.items()}
        for side in sides.values():
            side.warm_up()
        for _ in range(TURNS):
            for side in sides.values():
                side.take_turn()
    yield from figures(sides)


def figures(sides: Mapping[str, Side]) -> Iterator[Figure]:
    """Yield what the turns say, each kind of credentials beside none."""
    without = sides["none"]
    for name, side in sides.items():
        yield Figure(f"{name}, CPU", side.cpu_us, CPU_UNIT)
        yield Figure(f"{name}, closed loop, wall", side.rate, RATE_UNIT, more_is_better=True)
        if side is not without:
            yield Figure(
                name, without.cpu_us / side.cpu_us * 100, f"{SHARE_UNIT}, a core", goal=SHARE_GOAL, more_is_better=True
            )
            yield Figure(f"{name}, wall", side.rate / without.rate * 100, SHARE_UNIT, goal=SHARE_GOAL, more_is_better=True)


@contextmanager
def without_authentication(servers: str, home: Path) -> Iterator[Side]:
    """Run a gateway that takes everybody on this machine."""
    with running_gateway(servers, home / "gateway-none.log") as gateway:
        yield Side(gateway, None)


@contextmanager
def with_keys(servers: str, home: Path) -> Iterator[Side]:
    """Run a gateway that takes API keys."""
    path, credentials = home / "keys.json", home / "keys.txt"
    made_at = datetime.fromtimestamp(SYSTEM_CLOCK.now_ms() / 1000, UTC)
    made = [new_key(f"producer-{n}", created_at=made_at, products=None, streams=[EVENTS.topic]) for n in range(PRODUCERS)]
    with changing(path) as keys:
        keys.update({stored.prefix: stored for stored, _ in made})
    credentials.write_text("".join(f"ApiKey {shown}\n" for _, shown in made))
    settings = {"TALLY_AUTH_EVENTS": "on", "TALLY_AUTH_KEYS_FILE": str(path)}
    with running_gateway(servers, home / "gateway-keys.log", settings) as gateway:
        yield Side(gateway, credentials)


@contextmanager
def with_tokens(servers: str, home: Path) -> Iterator[Side]:
    """Run a key server, and a gateway that takes its tokens."""
    credentials = home / "tokens.txt"
    with running_key_server(home) as base:
        tokens = [access_token(base, client_of(number)) for number in range(PRODUCERS)]
        credentials.write_text("".join(f"Bearer {token}\n" for token in tokens))
        settings = {
            "TALLY_AUTH_EVENTS": "on",
            "TALLY_AUTH_EVENTS_KEY_SET_URL": f"{base}/jwks/",
            "TALLY_AUTH_EVENTS_ISSUER": base,
            "TALLY_AUTH_EVENTS_AUDIENCE": AUDIENCE,
        }
        with running_gateway(servers, home / "gateway-tokens.log", settings) as gateway:
            yield Side(gateway, credentials)


@contextmanager
def running_key_server(home: Path) -> Iterator[str]:
    """Run the key server for development, and yield what its paths begin with."""
    port, log, clients = free_port(), home / "key-server.log", home / "clients.json"
    base = f"http://{LOOPBACK}:{port}/identity"
    clients.write_text(json.dumps({client_of(number): SECRET for number in range(PRODUCERS)}))
    told = {"port": port, "clients": clients, "issuer": base, "audience": AUDIENCE}
    options = (f"--{name}={value}" for name, value in told.items())
    with running("stack", "key-server", *options, settings={}, log=log) as process:
        wait_ready(process, log, lambda: bool(ask(f"{base}/jwks/")["keys"]))
        yield base


def access_token(base: str, client: str) -> str:
    """Return a token of a client."""
    basic = b64encode(f"{client}:{SECRET}".encode()).decode()
    return str(ask(f"{base}/attest/", b"", Authorization=f"Basic {basic}")["access"])


def ask(url: str, body: bytes | None = None, **headers: str) -> dict[str, Any]:
    """Return what the key server answers; anything but 200 raises an OSError."""
    with urlopen(Request(url, body, headers), timeout=ANSWER_TIMEOUT_S) as answer:  # noqa: S310 - http, by us
        found: dict[str, Any] = json.load(answer)
        return found


def client_of(number: int) -> str:
    """Return the name of a client: letters only.

    >>> client_of(2)
    'producer-c'
    """
    return f"producer-{ascii_lowercase[number]}"


SIDES = {"none": without_authentication, "API key": with_keys, "token": with_tokens}
CASE = Case("gateway_auth", "the front door with and without authentication", measure)
