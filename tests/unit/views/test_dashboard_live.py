"""What all owners say becomes one answer; all tabs share one look around, and nobody's slowness is another's."""

from __future__ import annotations

import asyncio
from collections import Counter
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp.test_utils import make_mocked_request

from streams.metrics import WorkerMetrics
from streams.topics import USER_TAGS
from streams.whereabouts import State
from tables.blocks import PROGRESS, BlockKey
from tables.registry import StreamTables
from views.dashboard_live import LiveStreams, LookAround, tell
from views.dashboard_pulse import Pulse
from views.dashboard_sinks import LAG, LAST_SUCCESS, read_state
from views.dashboard_where import VERDICTS, WORST_FIRST, tell_all
from views.dashboard_where import tell as tell_where
from views.owners import Part

NOW_MS = 1_772_366_437_000
SINKS = {"state": "ok"}


def said(*places: tuple[int, int | None, int | None], per_second: float = 10.0) -> dict[str, Any]:
    """Return what an owner says: of each place partition, lag, and seconds ago that it is counted up to."""
    partitions = [
        {
            "partition": partition,
            "position": 100,
            "lag_records": lag,
            "counted_up_to_ms": None if ago_s is None else NOW_MS - ago_s * 1000,
        }
        for partition, lag, ago_s in places
    ]
    return {"events_per_s": per_second, "dead_letters": 2.0, "dead_letters_per_minute": 1.0, "partitions": partitions}


def test_answer_is_as_fresh_as_the_partition_that_is_furthest_behind() -> None:
    """Rates and lags add up; who does not know up to when makes the whole unknown."""
    parts = [Part("a", [0, 2], said((0, 0, 1), (2, 5, 3))), Part("b", [1], said((1, 0, 0)))]
    answer = tell(parts, SINKS, now_ms=NOW_MS)
    assert (answer["events_per_s"], answer["lag_records"], answer["lag_s"], answer["freshness_s"]) == (20.0, 5, 3.0, 3.0)
    assert (answer["complete"], answer["missing_partitions"]) == (True, [])
    assert [place["partition"] for place in answer["partitions"]] == [0, 1, 2]
    assert answer["dead_letters"] == {"total": 4, "per_minute": 2.0}
    unknown = tell([Part("a", [0, 1], said((0, 0, 1), (1, None, None)))], SINKS, now_ms=NOW_MS)
    assert (unknown["lag_records"], unknown["lag_s"], unknown["freshness_s"]) == (None, None, None)


def test_owner_that_does_not_answer_is_named_and_nothing_passes_for_whole() -> None:
    """Its partitions are missing, and it is shown as not ready; so are partitions that nobody owns."""
    parts = [Part("a", [0], said((0, 0, 1))), Part("b", [1, 3], None), Part(None, [2], None)]
    answer = tell(parts, SINKS, now_ms=NOW_MS)
    assert (answer["complete"], answer["missing_partitions"]) == (False, [1, 2, 3])
    assert (answer["freshness_s"], answer["counted_up_to"]) == (None, None)
    assert [(worker["url"], worker["ready"]) for worker in answer["workers"]] == [("a", True), ("b", False)]


class Hands:
    """A clock that is moved."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic_s(self) -> float:
        return self.now_s

    def now_ms(self) -> int:
        return int(self.now_s * 1000)


async def test_all_tabs_share_one_look_around_a_second() -> None:
    """50 of them cost what one does; nobody looking costs nothing."""
    clock, looks = Hands(), Counter[str]()

    async def gather() -> dict[str, Any]:
        looks["looks"] += 1
        await asyncio.sleep(0)
        return {"look": looks["looks"]}

    around = LookAround(gather, clock)
    first = await asyncio.gather(*(around.newest() for _ in range(50)))
    assert {found.answer["look"] for found in first} == {1}
    assert (await around.newest()).number == 1
    clock.now_s += 1.0
    again = await asyncio.gather(*(around.newest(1) for _ in range(50)))
    assert {found.number for found in again} == {2} and looks["looks"] == 2


async def test_look_around_that_fails_is_looked_again() -> None:
    """One error must not end all streams for good."""
    answers: list[Any] = [RuntimeError("once"), {"fine": True}]

    async def gather() -> dict[str, Any]:
        found = answers.pop(0)
        if isinstance(found, Exception):
            raise found
        return cast("dict[str, Any]", found)

    around = LookAround(gather, Hands())
    with pytest.raises(RuntimeError):
        await around.newest()
    assert (await around.newest()).answer == {"fine": True}


class SlowReader:
    """A response whose reader takes what is written when the test lets it."""

    def __init__(self) -> None:
        self.takes = asyncio.Event()
        self.taken: list[bytes] = []

    async def write(self, data: bytes) -> None:
        await self.takes.wait()
        self.taken.append(data)


async def test_slow_reader_gets_the_newest_and_not_what_it_missed() -> None:
    """Back-pressure drops to the latest: a page shows how it is, not how it was a minute ago."""
    clock, reader, stopped = Hands(), SlowReader(), list[bool]()
    looks = iter(range(1, 1_000))

    async def gather() -> dict[str, Any]:
        return {"look": next(looks)}

    around = LookAround(gather, clock)
    streams = LiveStreams(around, streams_max=1, stops=lambda: bool(stopped))
    async with asyncio.timeout(30) as patience:
        sending = asyncio.ensure_future(streams._send(cast("Any", reader), patience))
        for _ in range(5):
            await asyncio.sleep(0)
            clock.now_s += 1.0
            await around.newest()
        reader.takes.set()
        while len(reader.taken) < 2:
            await asyncio.sleep(0)
        stopped.append(True)
        clock.now_s += 1.0
        await sending
    numbers = [int(data.split(b"\n")[0].removeprefix(b"id: ")) for data in reader.taken]
    assert numbers[1] - numbers[0] >= 4


async def test_head_has_the_headers_of_a_stream_and_opens_none() -> None:
    """It has no body: whoever asked so would hold a place among the streams, and wait for an end that never comes."""
    looked: list[bool] = []

    async def gather() -> dict[str, Any]:
        looked.append(True)
        return {}

    streams = LiveStreams(LookAround(gather, Hands()), streams_max=1, stops=lambda: False)
    response = await streams.answer(make_mocked_request("HEAD", "/dashboard/api/live"), {"Cache-Control": "no-store"})
    assert (response.status, response.content_type) == (200, "text/event-stream")
    assert response.headers["Cache-Control"] == "no-store"
    assert (streams.open, looked, response.prepared) == (0, [], False)


class Store:
    """The part of the store that is looked at: how far one partition is counted, and its changelog."""

    def __init__(self) -> None:
        self.counted = 0
        self.changelog: int | None = None

    def owned(self) -> list[int]:
        return [0]

    def persisted_offset(self, tp: Any) -> int | None:
        return self.changelog

    def progress(self, partition: int) -> BlockKey | None:
        return BlockKey(PROGRESS, 0, self.counted - 1) if self.counted else None


class Scene:
    """One partition: its log's end, how far it is counted, and a clock."""

    def __init__(self) -> None:
        self.store, self.clock, self.end = Store(), Hands(), 0
        app = SimpleNamespace(consumer=SimpleNamespace(highwater=lambda tp: self.end))
        tables = StreamTables(USER_TAGS, cast("Any", SimpleNamespace(data=self.store, app=app)), None)
        self.metrics = WorkerMetrics()
        self.pulse = Pulse(tables, self.metrics, self.clock)

    def second(self, *, end: int, counted: int) -> int | None:
        """Let a second pass, and return up to when everything is counted, seconds."""
        self.clock.now_s += 1
        self.end, self.store.counted = end, counted
        self.pulse.look()
        up_to_ms = self.pulse.as_of_ms([0])
        return None if up_to_ms is None else up_to_ms // 1000


def test_counted_up_to_is_when_the_log_ended_where_counting_is_now() -> None:
    """Whatever time the events tell: it is about arrival. A silent partition is up to date."""
    scene = Scene()
    assert scene.second(end=10, counted=0) is None
    assert scene.second(end=20, counted=10) == 101
    assert scene.second(end=20, counted=19) == 101
    assert scene.second(end=20, counted=20) == 104
    assert scene.second(end=20, counted=20) == 105


async def test_what_postgres_has_applied_tells_up_to_when_it_has_everything() -> None:
    """The changelog's offset of a look goes with the instant that look had reached."""
    scene = Scene()
    scene.second(end=0, counted=0)
    scene.store.changelog = 7
    scene.second(end=10, counted=10)
    scene.second(end=10, counted=10)
    assert [tuple(look) for look in (await scene.pulse.written([0]))[0]] == [(-1, 101_000), (7, 103_000)]


def test_rates_are_those_of_the_last_seconds() -> None:
    """A counter that jumps by batches is no jumping rate; a dead letter is seen for a minute."""
    scene = Scene()
    for _ in range(10):
        scene.metrics.events.labels(USER_TAGS.topic, "counted").inc(100)
        scene.second(end=0, counted=0)
    scene.metrics.events.labels(USER_TAGS.topic, "dead_letter").inc(3)
    scene.second(end=0, counted=0)
    answer = asyncio.run(scene.pulse.answer([0]))
    assert (answer["events_per_s"], answer["dead_letters"], answer["dead_letters_per_minute"]) == (80.0, 3.0, 18.0)


def test_sinks_are_behind_when_much_waits_or_little_for_long() -> None:
    """A moment's traffic is always on its way; what waits without a transaction is stuck."""

    def state(lag: float, last_s: float, *, ready: bool = True) -> str:
        series = f'{LAG}{{topic="t",partition="0"}} {lag}\n{LAG}{{topic="t",partition="1"}} 0.0\n'
        text = f"# HELP {LAG} x\n{series}{LAST_SUCCESS} {last_s}\n"
        return str(read_state(text, ready=ready, now_s=1_000.0)["state"])

    assert [state(5, 999), state(5, 900), state(5_000, 999), state(0, 1), state(0, 999, ready=False)] == [
        "ok",
        "behind",
        "behind",
        "ok",
        "behind",
    ]
    assert read_state("", ready=True, now_s=1.0)["state"] == "unknown"


def found(state: str, source: str = "t/0/1") -> dict[str, Any]:
    return {
        "state": state, "says": f"it is {state}", "source": source, "minute": None,
        "kafka": {"first": 0, "decided": 9, "end": 9}, "worker": {"state": "counted", "counted": 9, "lag": 0},
        "postgres": {"row": True, "block": False, "lag": 3},
    }  # fmt: skip


def test_whereabouts_become_a_verdict_and_steps() -> None:
    """Of several events of a user and instant the worst comes first; why Postgres was not asked stays in the log."""
    answer = tell_where(found("in_postgres"))
    assert (answer["verdict"], [step["found"] for step in answer["steps"]]) == ("counted", [True, True, True, False])
    assert tell_where(found("never_written"))["steps"][0]["found"] is False
    silent = tell_where(found("counted") | {"postgres": "connection to 10.1.2.3 refused"})
    assert "10.1.2.3" not in str(silent) and silent["steps"][2]["found"] is False
    many = tell_all([tell_where(found("counted")), tell_where(found("dead_letter", "t/0/2"))])
    assert many["verdict"] == "dead_letter" and many["sentence"].startswith(
        "2 events of that user and instant: 1 dead letter, 1 counted"
    )
    assert tell_all([])["verdict"] == "not_received"


def test_every_place_has_a_verdict() -> None:
    """A state that is added to the search must not end the page's."""
    assert VERDICTS.keys() == set(State) and set(VERDICTS.values()) == set(WORST_FIRST)
