"""A whole job before the dashboard's data: workers, sinks, gateway, Postgres, and a recomputation of everything sent to it."""

from __future__ import annotations

import http.client
import json
import random
import shutil
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from sinks.migrate import migrate
from stack.ports import free_port
from stack.postgres import LocalPostgres
from streams.event_time import format_instant
from tests.support.builders import a_user_tag
from tests.support.eventually import eventually
from tests.support.gateway_process import Gateway, running_gateway
from tests.support.job import Answer, Door, own_kafka
from tests.support.sinks_process import SinksProcess, select
from tests.support.worker import WorkerProcess

PARTITIONS = 4
SEED = 7
MINUTE_S, HOUR_S, DAY_S = 60, 3_600, 86_400
NOW_S = int(time.time())
EVENTS = 1_500
AGES_S = (20 * MINUTE_S, 3 * HOUR_S, 30 * HOUR_S, 70 * DAY_S)
"""How long ago the events happened, each lot within 20 minutes: of this hour, of this day, of another, of another month."""
SPREAD_S = 20 * MINUTE_S
QUIRKS = ("", "O'Brien", 'say "hi"', "=1+1", "żółć 🦊", "a,b;c", "%s %(x)s {y} \\", "'; DROP TABLE tally.minute_cells; --")
DIMENSIONS = ("action", "origin", "brand_id", "category_id")
WITHIN_S = 60.0
API = "/dashboard/api"
TAKEN_OVER_WITHIN_S = 90.0
Cell = tuple[int, str, str, str, str]
Totals = tuple[int, int]


def text_of(at_s: float) -> str:
    return f"{datetime.fromtimestamp(at_s, UTC):%Y-%m-%dT%H:%M:%SZ}"


class Counted:
    """Everything that was sent, added up with plain dicts."""

    def __init__(self) -> None:
        self.cells: defaultdict[Cell, list[int]] = defaultdict(lambda: [0, 0])

    def add(self, tag: Mapping[str, Any]) -> None:
        at_s = int(datetime.fromisoformat(tag["time"]).timestamp())
        product = tag["product_info"]
        cell = self.cells[at_s, tag["action"], tag["origin"], product["brand_id"], product["category_id"]]
        cell[0] += 1
        cell[1] += product["price"]

    def matching(self, start_s: int, end_s: int, filters: Mapping[str, str]) -> Iterator[tuple[int, dict[str, str], list[int]]]:
        for (at_s, *values), totals in self.cells.items():
            named = dict(zip(DIMENSIONS, values, strict=True))
            if start_s <= at_s < end_s and all(named[name] == value for name, value in filters.items()):
                yield at_s, named, totals

    def series(
        self, start_s: int, end_s: int, step_s: int, filters: Mapping[str, str], by: str | None
    ) -> dict[str | None, dict[int, Totals]]:
        """Return totals by key and start of the step, where there are any."""
        found: defaultdict[str | None, defaultdict[int, list[int]]] = defaultdict(lambda: defaultdict(lambda: [0, 0]))
        for at_s, named, (count, price) in self.matching(start_s, end_s, filters):
            mine = found[named[by] if by else None][at_s // step_s * step_s]
            mine[0] += count
            mine[1] += price
        return {key: {at: (count, price) for at, (count, price) in line.items()} for key, line in found.items()}

    def top(self, start_s: int, end_s: int, filters: Mapping[str, str], by: str) -> list[tuple[str, int, int]]:
        """Return value, count and sum, those that count most first."""
        counts: Counter[str] = Counter()
        sums: Counter[str] = Counter()
        for _, named, (count, price) in self.matching(start_s, end_s, filters):
            counts[named[by]] += count
            sums[named[by]] += price
        return sorted(((key, count, sums[key]) for key, count in counts.items()), key=lambda row: (-row[1], row[0]))


def some_tags(count: int, *, seed: int) -> Iterator[dict[str, Any]]:
    """Yield events of all ages, some with values that are no words."""
    chance = random.Random(seed)
    for number in range(count):
        at_s = NOW_S - chance.choice(AGES_S) - chance.random() * SPREAD_S
        quirk = chance.choice(QUIRKS) if chance.random() < 0.2 else None
        yield a_user_tag(
            time=format_instant(int(at_s * 1000)),
            cookie=f"cookie-{number % 97}",
            action=chance.choice(("VIEW", "VIEW", "VIEW", "BUY")),
            origin=quirk if quirk is not None else f"ORIGIN_{int(30 * chance.random() ** 2)}",
            brand_id=f"Brand_{chance.randrange(5)}",
            category_id=f"Category_{chance.randrange(3)}",
            price=chance.randrange(-50, 3_000),
        )


class Site:
    """Two workers, sinks and a gateway before a Kafka and a Postgres of their own, and everything that was sent."""

    def __init__(self, home: Path, servers: str, postgres: LocalPostgres) -> None:
        self.postgres = postgres
        self.counted = Counted()
        sinks_port = str(free_port())
        settings = {"TALLY_POSTGRES_DSN": postgres.dsn, "TALLY_SINKS_PORT": sinks_port}
        self.workers = [WorkerProcess(servers, home, index=index, settings=settings) for index in (0, 1)]
        self.sinks = SinksProcess(
            servers, postgres.dsn, home / "sinks.log", TALLY_SINKS_PORT=sinks_port, TALLY_SINKS_ROLLUP_QUIET_S="0"
        )
        self.gateway: Gateway
        self.door: Door

    def send(self, tags: Sequence[Mapping[str, Any]]) -> None:
        """Send events, each stored when this returns, and add them up."""
        for tag in tags:
            self.door.send(tag)
            self.counted.add(tag)

    def ask(self, path: str, **fields: object) -> Answer:
        named = {name.rstrip("_"): value for name, value in fields.items()}
        return self.door.ask("GET", f"{API}/{path}?{urlencode(named)}")

    def answer(self, path: str, **fields: object) -> Any:
        found = self.ask(path, **fields)
        assert found.status == 200, found
        return found.json

    def in_postgres(self) -> bool:
        rows = select(self.postgres.dsn, "SELECT coalesce(sum(event_count), 0)::bigint FROM tally.minute_cells")
        return bool(rows[0][0] == sum(count for count, _ in self.counted.cells.values()))

    def whole(self) -> bool:
        """Say whether every hour that is over, and every day, is rolled up."""
        rows = select(
            self.postgres.dsn,
            """SELECT count(*) FROM (SELECT 1 FROM tally.hour_cells_touched t LEFT JOIN tally.hour_cells_rolled r
               USING (stored_on, hour_at) WHERE t.hour_at < now() - interval '62 minutes'
               GROUP BY t.stored_on, t.hour_at, r.version HAVING sum(t.version) IS DISTINCT FROM r.version) w""",
        )
        days = select(self.postgres.dsn, "SELECT count(*) FROM tally.day_cells_rolled")
        return bool(rows[0][0] == 0 and days[0][0] >= 1)

    def settle(self) -> None:
        """Wait until everything that was sent is counted and in Postgres."""
        eventually(self.in_postgres, within_s=WITHIN_S, what="everything in postgres")

    def kill(self, worker: WorkerProcess) -> list[int]:
        """Kill a worker and return the partitions that it owned."""
        owned = [each["partitions"] for each in self.answer("now")["workers"] if each["url"].endswith(str(worker.port))]
        worker.kill()
        return list(owned[0])

    def is_whole_again(self) -> bool:
        now = self.answer("now")
        return now["complete"] is True and now["lag_records"] == 0 and len(now["partitions"]) == PARTITIONS


class Stream:
    """A live stream over a connection of its own."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        self._connection.request("GET", f"{API}/live", headers={"Accept": "text/event-stream"})
        self.response = self._connection.getresponse()
        assert self.response.status == 200
        assert self.response.getheader("Content-Type") == "text/event-stream"

    def events(self) -> Iterator[dict[str, Any]]:
        """Yield events until the stream ends."""
        for raw in self.response:
            line = raw.decode().rstrip("\n")
            if line.startswith("data: "):
                yield json.loads(line.removeprefix("data: "))

    def close(self) -> None:
        self.response.close()
        self._connection.close()


@contextmanager
def stream_of(port: int) -> Iterator[Stream]:
    with closing(Stream(port)) as stream:
        yield stream


@contextmanager
def running_site() -> Iterator[Site]:
    """Run the site, with everything that was sent counted and in Postgres; nothing of it is left at the end."""
    home = Path(tempfile.mkdtemp(prefix="tally-dashboard-"))
    postgres = LocalPostgres(home / "postgres")
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        servers = stack.enter_context(own_kafka(home / "kafka"))
        stack.callback(postgres.remove)
        postgres.start()
        stack.callback(postgres.stop)
        migrate(postgres.dsn)
        made = Site(home / "job", servers, postgres)
        (home / "job").mkdir(exist_ok=True)
        for worker in made.workers:
            stack.callback(worker.kill)
            worker.start(wait=False)
        stack.callback(made.sinks.stop)
        made.sinks.start()
        urls = ",".join(worker.url for worker in made.workers)
        made.gateway = stack.enter_context(running_gateway(servers, gateway_workers=urls, gateway_body_bytes_max="65536"))
        made.door = stack.enter_context(closing(Door(made.gateway.port)))
        eventually(lambda: made.door.ask("GET", "/ready").status == 200, within_s=WITHIN_S, what="the gateway ready")
        eventually(
            lambda: len(made.answer("now")["workers"]) == 2 and made.is_whole_again(), within_s=WITHIN_S, what="two workers"
        )
        made.send(list(some_tags(EVENTS, seed=SEED)))
        made.settle()
        yield made


def points(line: Mapping[str, Any]) -> dict[int, Totals]:
    """Return the points of a series that are not silent."""
    return {at: (count, price) for at, count, price in line["points"] if count}


def shown(answer: Mapping[str, Any]) -> dict[str | None, dict[int, Totals]]:
    found = {line["key"]: points(line) for line in answer["series"]}
    return {key: line for key, line in found.items() if line}
