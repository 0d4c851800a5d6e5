"""What a full queue, a dead collector, a callback or a closing does to callers: nothing worse than a None."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest
from tally_client import AnalyticsClient, AsyncAnalyticsClient, DeliveryError, Options, bearer
from tally_client.outcomes import Outcome

from tests.client.clients import FLUSH_S, AnyClient, Threads
from tests.client.conftest import Opening
from tests.client.fast_clock import FastClock
from tests.client.recording import Recorder

NEVER_S = 1_000_000.0


def captured(client: AnyClient, count: int, **fields: Any) -> list[str | None]:
    return [client.capture("clicked", f"user-{number}", **fields) for number in range(count)]


def test_a_full_queue_refuses_the_newest(recorder: Recorder, open_client: Opening) -> None:
    """`drop_newest`: the caller gets None and goes on, the drop is counted and told."""
    told: list[Outcome] = []
    client = open_client(queue_events_max=5, batch_wait_s=NEVER_S, on_error=told.append)
    ids = captured(client, 8)
    assert [event_id is not None for event_id in ids] == [True] * 5 + [False] * 3
    assert client.flush()
    assert [event["id"] for event in recorder.events] == ids[:5]
    assert client.stats() == (5, 5, {"queue_full": 3}, 0)
    assert [outcome.event["user_id"] for outcome in told] == ["user-5", "user-6", "user-7"]


def test_a_full_queue_gives_up_the_oldest(recorder: Recorder, open_client: Opening) -> None:
    """`drop_oldest`: what is newest is worth most, on a page that shows the latest."""
    client = open_client(queue_events_max=5, batch_wait_s=NEVER_S, when_full="drop_oldest")
    ids = captured(client, 8)
    assert client.flush()
    assert [event["id"] for event in recorder.events] == ids[3:]
    assert client.stats() == (8, 5, {"queue_full": 3}, 0)


def test_bytes_fill_a_queue_too(recorder: Recorder, open_client: Opening) -> None:
    """A bound on events alone is none: an event may have 256 KB."""
    client = open_client(queue_bytes_max=10_000, batch_wait_s=NEVER_S)
    ids = captured(client, 5, properties={"text": "x" * 3_000})
    assert [event_id is not None for event_id in ids] == [True] * 3 + [False] * 2
    assert client.flush()
    assert len(recorder.events) == 3


def test_a_full_queue_makes_its_caller_wait_for_room(recorder: Recorder, open_client: Opening) -> None:
    """`block`: for callers who rather wait than lose; room comes when a batch is done."""
    recorder.gate.clear()
    client = open_client(queue_events_max=2, batch_events_max=1, when_full="block", block_timeout_s=NEVER_S)
    first = captured(client, 2)
    threading.Timer(0.05, recorder.gate.set).start()
    assert client.capture() is not None
    assert client.flush()
    assert len(recorder.kept) == 3 and set(first) < recorder.kept


def test_a_caller_waits_no_longer_than_its_timeout(recorder: Recorder, open_client: Opening) -> None:
    """`block` has a bound, and past it is `drop_newest`."""
    recorder.gate.clear()
    client = open_client(queue_events_max=2, batch_events_max=1, when_full="block", block_timeout_s=2.0)
    assert [event_id is not None for event_id in captured(client, 3)] == [True, True, False]
    recorder.gate.set()
    assert client.flush()
    assert client.stats() == (2, 2, {"queue_full": 1}, 0)


def test_what_is_under_way_counts_as_queued(recorder: Recorder, open_client: Opening) -> None:
    """Else memory would hold a queue and a batch for each slow answer."""
    recorder.gate.clear()
    client = open_client(queue_events_max=3, batch_events_max=1)
    captured(client, 3)
    client.wait_for(lambda: len(recorder.seen) == 1)
    assert client.capture() is None
    recorder.gate.set()
    assert client.flush()


def test_flush_is_false_on_a_dead_collector(recorder: Recorder, open_client: Opening) -> None:
    """Its time is a total: however many attempts fail in it."""
    with recorder.down():
        client = open_client()
        captured(client, 3)
        assert client.flush(5.0) is False
        assert client.stats().waiting == 3
    assert client.flush()
    assert len(recorder.kept) == 3


def test_an_outage_of_ten_minutes_loses_nothing(recorder: Recorder, open_client: Opening) -> None:
    """What is captured before and during it arrives afterwards, each event once."""
    clock = FastClock(400)
    client = open_client(clock=clock)
    ids = set(captured(client, 150))
    with recorder.down():
        ids |= set(captured(client, 150))
        until_s = clock.elapsed_s() + 600
        client.wait_for(lambda: clock.elapsed_s() > until_s)
    assert client.flush()
    assert recorder.kept == ids and len(ids) == 300
    assert client.stats() == (300, 300, {}, 0)


@pytest.mark.parametrize("jump_s", [-3.0e8, 3.0e8])
def test_a_jump_of_the_wall_clock_changes_no_delay_and_no_age(
    jump_s: float, recorder: Recorder, open_client: Opening, clock: FastClock
) -> None:
    """Delays and ages are measured by what never goes back; only stamps are of the wall."""

    def jump_and_refuse(seen: Any) -> dict[str, Any]:
        clock.jumped_s += jump_s
        del recorder.routes["/v1/events"]
        first_at_s.append(seen.at_s)
        return {"status": 503, "headers": {"Retry-After": "20"}}

    first_at_s: list[float] = []
    recorder.routes["/v1/events"] = jump_and_refuse
    client = open_client()
    event_id = client.capture()
    assert client.flush(100.0)
    assert recorder.kept == {event_id}
    assert 20 <= recorder.seen[0].at_s - first_at_s[0] < 100


def test_a_lone_event_goes_after_a_second(recorder: Recorder, open_client: Opening) -> None:
    """Nobody needs to flush."""
    client = open_client()
    client.capture()
    client.wait_for(lambda: len(recorder.kept) == 1)


def test_two_events_of_one_id_are_two_to_the_client(recorder: Recorder, open_client: Opening) -> None:
    """The server counts them once; the queue's room must come back for both."""
    client = open_client(queue_events_max=3, batch_wait_s=NEVER_S)
    given = "0190b5d4-7f6a-7cc3-98c4-dc0c0c07398f"
    for _ in range(3):
        assert [client.capture("clicked", id=given) for _ in range(4)] == [given] * 3 + [None]
        assert client.flush()
    assert recorder.kept == {given}
    assert client.stats() == (9, 9, {"queue_full": 3}, 0)


class Odd(dict[str, object]):
    """Properties that raise when they are looked at, as lazy ones may."""

    def items(self) -> Any:
        raise RuntimeError("not loaded")


@pytest.mark.parametrize(
    "fields",
    [
        {"event_type": ""},
        {"user_id": None},
        {"user_id": ""},
        {"properties": ["a", "list"]},
        {"properties": {"lazy": Odd(a=1)}},
        {"properties": {"text": "\ud800"}},
        {"properties": {("a", "tuple"): 1}},
        {"time": "yesterday"},
        {"id": "17"},
        {"propertes": {}},
    ],
    ids=repr,
)
def test_what_is_no_event_is_told_and_not_raised(fields: dict[str, Any], open_client: Opening) -> None:
    """`capture` stands in the middle of what really matters to its caller."""
    told: list[Outcome] = []
    client = open_client(on_error=told.append)
    assert client.capture(**fields) is None
    assert [outcome.code for outcome in told] == ["invalid_event"]
    assert client.stats() == (0, 0, {"invalid_event": 1}, 0)


def test_a_close_in_the_middle_of_captures_leaves_none_behind(recorder: Recorder, clock: FastClock) -> None:
    """Each event of each thread is either refused, or told as lost; none is between the two when the client looks."""
    for _ in range(3):
        told: list[Outcome] = []
        taken: list[list[str | None]] = [[] for _ in range(6)]
        with recorder.down():
            client = AnalyticsClient(
                recorder.url, options=Options(clock=clock, on_error=told.append, queue_events_max=1_000_000)
            )

            def capture(ids: list[str | None], client: AnalyticsClient = client) -> None:
                while not ids or ids[-1] is not None:
                    ids.append(client.capture("clicked", "user-1"))

            threads = [threading.Thread(target=capture, args=(ids,)) for ids in taken]
            for thread in threads:
                thread.start()
            while client.stats().accepted < 1_000:
                continue
            client.close(0.0)
            for thread in threads:
                thread.join()
        ids = [event_id for each in taken for event_id in each if event_id is not None]
        assert sorted(outcome.event_id for outcome in told if outcome.code == "not_sent") == sorted(ids)
        assert client.stats() == (len(ids), 0, {"not_sent": len(ids), "closed": 6}, 0)


@pytest.mark.parametrize("open_client", [Threads], indirect=True)
def test_without_a_thread_events_are_told_at_the_end(open_client: Opening, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interpreter that goes down starts none; nothing hangs, and nothing is lost in silence."""

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    client = open_client()
    monkeypatch.setattr(threading.Thread, "start", start)
    assert client.capture() is not None
    assert client.flush(NEVER_S) is False
    client.close()
    assert client.stats() == (1, 0, {"not_sent": 1}, 0)


def test_before_send_may_drop_and_change(recorder: Recorder, open_client: Opening) -> None:
    """None drops in silence: that is what the hook is for."""

    def hook(event: dict[str, Any]) -> dict[str, Any] | None:
        event["properties"] = {"seen": True}
        return None if event["user_id"] == "user-1" else event

    client = open_client(before_send=hook)
    captured(client, 3)
    assert client.flush()
    assert [(event["user_id"], event["properties"]) for event in recorder.events] == [
        ("user-0", {"seen": True}),
        ("user-2", {"seen": True}),
    ]
    assert client.stats() == (2, 2, {}, 0)


def raising(event: object) -> Any:
    raise RuntimeError(f"a bug, with the event in its message: {event}")


def test_what_hooks_raise_harms_nobody(recorder: Recorder, open_client: Opening) -> None:
    """An `on_error` that raises ends neither the sender nor other callbacks; where `before_send` raises, nothing is sent."""
    recorder.script([{"results": ["drop", "ok", "drop"]}])
    client = open_client(on_error=raising, on_success=raising)
    captured(client, 3)
    assert client.flush()
    assert client.stats() == (3, 1, {"drop": 2}, 0)
    client.capture()
    assert client.flush()
    assert client.stats().delivered == 2
    scrubbing = open_client(before_send=raising)
    assert scrubbing.capture() is None
    assert scrubbing.stats().failed == {"before_send_failed": 1}


def test_a_callback_may_capture_and_flush(recorder: Recorder, open_client: Opening) -> None:
    """What it causes itself is counted but not told, so it cannot call itself; a flush says at once that something is left."""
    flushed: list[Any] = []

    def on_error(_: Outcome) -> None:
        client.client.capture("failed", "user-1") if is_threads else None
        flushed.append(client.client.flush(NEVER_S) if is_threads else None)

    client = open_client(on_error=on_error, batch_events_max=1)
    is_threads = isinstance(client, Threads)
    recorder.script([{"status": 400}] * 2)
    captured(client, 1)
    client.wait_for(lambda: len(flushed) >= 1)
    assert client.flush()
    assert flushed == ([False, False] if is_threads and len(flushed) == 2 else [False] if is_threads else [None])


def test_an_on_error_that_captures_into_a_full_queue_is_called_once_an_event(open_client: Opening) -> None:
    """Else the first drop would be the last thing that the caller does."""
    calls: list[str] = []

    def on_error(outcome: Outcome) -> None:
        calls.append(outcome.code)
        if isinstance(client, Threads):
            client.capture("dropped", "user-1")

    client = open_client(on_error=on_error, queue_events_max=1, batch_wait_s=NEVER_S)
    captured(client, 2)
    assert calls == ["queue_full"]


def test_neither_events_nor_keys_are_in_a_log(
    recorder: Recorder, open_client: Opening, caplog: pytest.LogCaptureFixture
) -> None:
    """Logs are read by more people than events are."""
    caplog.set_level(logging.DEBUG)
    results = {"results": [{"result": "drop", "code": "x", "detail": "y"}, "limited", "retry"]}
    recorder.script([{"close": True}, {"status": 503}, results, {"status": 413}])
    client = open_client(bearer("s3cret-key"), on_error=raising, before_send=lambda e: raising(e) if e["type"] == "odd" else e)
    captured(client, 3, properties={"card": "pay-load"})
    client.capture("odd", properties={"card": "pay-load"})
    client.capture("clicked", properties={"card": "pay-load", "no_json": object()})
    assert client.flush()
    client.capture("clicked", "pay-load")
    recorder.stop()
    client.close(0.1)
    text = "\n".join(f"{record.getMessage()} {record.exc_text}" for record in caplog.records)
    assert "on_error raised RuntimeError" in text, "the test sees no log"
    assert "pay-load" not in text and "s3cret" not in text and "card" not in text


def test_what_raises_while_it_is_looked_at_does_not_reach_the_caller(recorder: Recorder, open_client: Opening) -> None:
    """A lazy user of a framework, an array: `capture` never raises."""

    class Odd:
        def __str__(self) -> str:
            raise RuntimeError("pay-load")

        def __bool__(self) -> bool:
            raise RuntimeError("pay-load")

    told: list[Outcome] = []
    client = open_client(on_error=told.append)
    assert client.capture(user_id=Odd()) is None  # type: ignore[arg-type]
    assert client.capture(context=Odd()) is None
    assert [(outcome.code, "pay-load" in outcome.detail) for outcome in told] == [("invalid_event", False)] * 2
    assert client.capture() is not None
    assert client.flush()
    assert len(recorder.kept) == 1


def test_a_closed_client_refuses(recorder: Recorder, open_client: Opening) -> None:
    """It neither raises nor starts again; closing again does nothing."""
    client = open_client()
    client.capture()
    client.close(FLUSH_S)
    client.close()
    assert len(recorder.kept) == 1
    assert client.capture() is None
    assert client.flush(1.0)
    assert client.stats() == (1, 1, {"closed": 1}, 0)


def test_what_cannot_be_sent_by_the_end_is_told(recorder: Recorder, open_client: Opening) -> None:
    """Without a spool it is lost, and must not be lost in silence."""
    told: list[Outcome] = []
    with recorder.down():
        client = open_client(on_error=told.append)
        ids = captured(client, 3)
        client.close(5.0)
    assert [outcome.event_id for outcome in told] == ids
    assert client.stats() == (3, 0, {"not_sent": 3}, 0)


def test_sync_delivers_or_raises(recorder: Recorder, open_client: Opening) -> None:
    """For scripts and tests, whose next line relies on it."""
    client = open_client(sync=True)
    assert client.capture() in recorder.kept
    recorder.script([{"status": 503}])
    assert client.capture() in recorder.kept
    for answers, code in (([{"status": 403}], "http_403"), ([{"status": 500}] * 4, "retries_exhausted")):
        recorder.script(answers)
        with pytest.raises(DeliveryError, match=code):
            client.capture(properties={"card": "pay-load"})
    with pytest.raises(DeliveryError, match="invalid_event"):
        client.capture(user_id=None)
    assert client.stats().failed == {"http_403": 1, "retries_exhausted": 1, "invalid_event": 1}


@pytest.mark.parametrize(
    ("option", "wrong"),
    [
        ("spool", {"when_full": "spool"}),
        ("spool", {"durable": True}),
        ("when_full", {"when_full": "explode"}),
        ("compression", {"compression": "br"}),
        ("batch_bytes_max", {"batch_bytes_max": 1_000_000}),
        ("batch_events_max", {"batch_events_max": 0}),
        ("age_s_max", {"age_s_max": 100_000}),
        ("queue_events_max", {"queue_events_max": 0}),
        ("sync", {"sync": True, "spool": "a-file"}),
    ],
)
def test_options_that_make_no_sense_are_refused(option: str, wrong: dict[str, Any]) -> None:
    """At the start, by name, where a person reads it."""
    with pytest.raises(ValueError, match=option):
        Options(**wrong)


@pytest.mark.parametrize("kind", [AnalyticsClient, AsyncAnalyticsClient])
@pytest.mark.parametrize("url", ["ftp://host", "host:80", "http://", "http://name:s3cret@host"])
def test_a_url_that_is_none_is_refused(kind: type[AnalyticsClient | AsyncAnalyticsClient], url: str) -> None:
    """Also one with a password inside: it would be in logs; the message does not repeat it."""
    with pytest.raises(ValueError, match="the url must") as raised:
        kind(url)
    assert "s3cret" not in str(raised.value)
