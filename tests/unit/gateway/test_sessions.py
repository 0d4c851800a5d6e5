"""Whose session it is: what one gateway learns, what others hear of it, and that all of them come to know the same."""

from __future__ import annotations

import asyncio
from itertools import permutations

import pytest

from gateway.session_topic import SessionTopic, encode
from gateway.sessions import CATCH_UP_S, NEWS_MAX, Session, Sessions, digest_of
from streams.settings import Analytics, Settings
from tests.support.clock import SteppedClock

DIGEST, OTHER = digest_of(b"s"), digest_of(b"t")


class Known(Sessions):
    """Sessions of a gateway that has read all there is."""

    def __init__(self, *, sessions_max: int = 100, session_s: int = 1_000) -> None:
        self.clock = SteppedClock(now_ms=1_000_000)
        super().__init__(Analytics(sessions_max=sessions_max, session_s=session_s), clock=self.clock)
        self.note_caught_up()


async def test_what_one_gateway_learns_another_hears() -> None:
    """P11: a session that was learned elsewhere, or before a restart, is known."""
    one, two = Known(), Known()
    one.learn(DIGEST, "judtin")
    for digest, session in (await one.next_news()).items():
        two.hear(digest, session)
    assert (await two.user_of(DIGEST), await two.user_of(OTHER)) == ("judtin", "")


async def test_news_heard_in_any_order_come_to_the_same() -> None:
    """Gateways read what they wrote themselves among the others' news, and late: nobody may go back to an older user."""
    news = [Session(1, "a"), Session(2, "b"), Session(2, "c"), Session(2, "c")]
    for order in permutations(news):
        sessions = Known()
        for session in order:
            sessions.hear(DIGEST, session)
        assert sessions._known[DIGEST] == Session(2, "c")


async def test_what_is_learned_last_holds_although_another_clock_is_ahead() -> None:
    """A user signs in as somebody else; the gateway that saw the first one has a clock that goes ahead."""
    sessions = Known()
    sessions.hear(DIGEST, Session(sessions.clock.now_ms() + 5_000, "first"))
    sessions.learn(DIGEST, "second")
    ((_, told),) = (await sessions.next_news()).items()
    assert told > Session(sessions.clock.now_ms() + 5_000, "first")
    assert await sessions.user_of(DIGEST) == "second"


async def test_session_that_goes_on_is_told_again_seldom() -> None:
    """Each request of a session names it: told each time, the topic would have as many records as `events.v1`."""
    sessions = Known(session_s=1_000)
    sessions.learn(DIGEST, "judtin")
    await sessions.next_news()
    for _ in range(99):
        sessions.clock.step(1)
        sessions.learn(DIGEST, "judtin")
    assert not sessions._news
    sessions.clock.step(1)
    sessions.learn(DIGEST, "judtin")
    assert list(await sessions.next_news()) == [DIGEST]


async def test_session_is_forgotten_when_it_is_old_or_told_to_be() -> None:
    """A session ends some day; and an erased user's must end at once."""
    sessions = Known(session_s=1_000)
    sessions.learn(DIGEST, "judtin")
    sessions.clock.step(1_001)
    assert await sessions.user_of(DIGEST) == ""
    sessions.learn(DIGEST, "judtin")
    assert await sessions.user_of(DIGEST) == "judtin"
    sessions.hear(DIGEST, None)
    assert await sessions.user_of(DIGEST) == ""
    assert not sessions._news, "it would be told to others after they have forgotten it"


async def test_memory_is_bounded_and_keeps_what_is_used() -> None:
    """Past the limit the session used longest ago goes; news that nobody can be told go too."""
    sessions = Known(sessions_max=2)
    for name in (b"a", b"b"):
        sessions.learn(digest_of(name), "u")
    assert await sessions.user_of(digest_of(b"a")) == "u"
    sessions.learn(digest_of(b"c"), "u")
    assert [await sessions.user_of(digest_of(name)) for name in (b"a", b"b", b"c")] == ["u", "", "u"]
    for number in range(NEWS_MAX + 1):
        sessions.learn(digest_of(b"%d" % number), "u")
    news = await sessions.next_news()
    assert len(news) == NEWS_MAX
    sessions.learn(OTHER, "new")
    sessions.tell_again({OTHER: Session(0, "old")})
    assert (await sessions.next_news())[OTHER].user == "new"


async def test_request_waits_for_what_is_being_read_just_after_the_start_only() -> None:
    """P11: a restart forgets nobody's session, and a Kafka that does not answer holds nobody up for longer than a moment."""
    clock = SteppedClock()
    sessions = Sessions(Analytics(), clock=clock)
    asking = asyncio.create_task(sessions.user_of(DIGEST))
    await asyncio.sleep(0)
    sessions.hear(DIGEST, Session(0, "judtin"))
    sessions.note_caught_up()
    assert await asking == "judtin"
    late = Sessions(Analytics(), clock=clock)
    clock.step(CATCH_UP_S)
    assert await late.user_of(DIGEST) == ""


async def test_record_of_the_topic_is_taken_or_left_out() -> None:
    """Somebody else's record may neither stop the reading nor bring in a user that no event can hold."""
    sessions = Known()
    topic = SessionTopic(sessions, Settings())
    bad: list[tuple[bytes | None, bytes | None]] = [
        (None, encode(Session(1, "a"))),
        (b"\xff", encode(Session(1, "a"))),
        (b"abc", encode(Session(1, "a"))),
        (DIGEST.encode(), b"{"),
        (DIGEST.encode(), encode(Session(1, "a\0"))),
        (DIGEST.encode(), encode(Session(1, "a" * 513))),
        (DIGEST.encode(), encode(Session(-1, "a"))),
    ]
    for key, value in bad:
        topic.take(key, value)
    assert len(sessions) == 0
    topic.take(DIGEST.encode(), encode(Session(sessions.clock.now_ms(), "judtin")))
    assert await sessions.user_of(DIGEST) == "judtin"
    topic.take(DIGEST.encode(), None)
    assert len(sessions) == 0


@pytest.mark.parametrize("secret", [b"sessionid-of-a-user"])
async def test_session_id_itself_is_not_written(secret: bytes) -> None:
    """Whoever reads it in a topic could act as the user."""
    sessions = Known()
    sessions.learn(digest_of(secret), "judtin")
    for digest, session in (await sessions.next_news()).items():
        assert secret not in digest.encode() + encode(session)
