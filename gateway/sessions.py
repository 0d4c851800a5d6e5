"""Know whose session it is: learned from requests that name a session and a user, kept in memory, bounded.

A session's id lets whoever has it act as the user, so only its SHA-256 is kept and written. `gateway/session_topic.py` tells
other gateways, and this one after a restart. What is not known is never an error: such a transaction has no user.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from hashlib import sha256
from typing import NamedTuple

from streams.clock import SYSTEM_CLOCK, Clock
from streams.settings import Analytics

DIGEST_LENGTH = 64
NEWS_MAX = 10_000
"""Sessions that wait to be told to others while Kafka is slow; past it the oldest is not told."""
TELL_AGAIN_SHARE = 0.1
"""A session that goes on is told again after this share of the time that it is known for."""
CATCH_UP_S = 2.0
"""After the start, how long a request may wait until what others have learned is read."""


class Session(NamedTuple):
    """Of two accounts of one session the greater one holds, in whichever order they come.

    Attributes:
        seen_at_ms: when a request last named the session with its user.
        user: of the session.
    """

    seen_at_ms: int
    user: str


def digest_of(session_id: bytes) -> str:
    """Return what stands for a session: 64 hexadecimal digits.

    >>> digest_of(b"s")[:16]
    '043a718774c572bd'
    """
    return sha256(session_id).hexdigest()


class Sessions:
    """The sessions that this gateway knows, those used longest ago first."""

    def __init__(self, settings: Analytics, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._known_max = settings.sessions_max
        self._known_ms = settings.session_s * 1_000
        self._clock = clock
        self._known: OrderedDict[str, Session] = OrderedDict()
        self._news: OrderedDict[str, Session] = OrderedDict()
        self._has_news = asyncio.Event()
        self._caught_up = asyncio.Event()
        self._wait_until_s = clock.monotonic_s() + CATCH_UP_S

    def __len__(self) -> int:
        return len(self._known)

    def learn(self, digest: str, user: str) -> None:
        """Note whose session it is; others are told when that is new, or was told long ago."""
        known = self._known.get(digest)
        now_ms = self._clock.now_ms()
        if known is not None and known.user == user and now_ms - known.seen_at_ms < self._known_ms * TELL_AGAIN_SHARE:
            return self._known.move_to_end(digest)
        if known is not None:  # told by a gateway whose clock is ahead: what is learned last is to hold everywhere
            now_ms = max(now_ms, known.seen_at_ms + 1)
        session = Session(now_ms, user)
        self._put(digest, session)
        return self._tell(digest, session)

    def hear(self, digest: str, session: Session | None) -> None:
        """Take what another gateway learned, in any order and however often; None: forget the session."""
        if session is None:
            self._known.pop(digest, None)
            self._news.pop(digest, None)
        elif session > self._known.get(digest, session._replace(seen_at_ms=-1)):
            self._put(digest, session)

    async def user_of(self, digest: str) -> str:
        """Return the session's user, empty when nobody knows; waits only just after the start, while the topic is read."""
        found = self._user_of(digest)
        if not found and not self._caught_up.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._caught_up.wait(), max(0.0, self._wait_until_s - self._clock.monotonic_s()))
            found = self._user_of(digest)
        return found

    def note_caught_up(self) -> None:
        """Say that what others had learned before the start is known now."""
        self._caught_up.set()

    async def next_news(self) -> Mapping[str, Session]:
        """Return what others are to be told, all of it; waits until there is something."""
        await self._has_news.wait()
        self._has_news.clear()
        news, self._news = self._news, OrderedDict()
        return news

    def tell_again(self, news: Mapping[str, Session]) -> None:
        """Take back what could not be told, unless something newer is waiting."""
        for digest, session in news.items():
            if digest not in self._news:
                self._tell(digest, session)

    def _user_of(self, digest: str) -> str:
        session = self._known.get(digest)
        if session is None or self._clock.now_ms() - session.seen_at_ms > self._known_ms:
            return ""
        self._known.move_to_end(digest)
        return session.user

    def _put(self, digest: str, session: Session) -> None:
        self._known[digest] = session
        self._known.move_to_end(digest)
        if len(self._known) > self._known_max:
            self._known.popitem(last=False)

    def _tell(self, digest: str, session: Session) -> None:
        self._news[digest] = session
        self._has_news.set()
        if len(self._news) > NEWS_MAX:
            self._news.popitem(last=False)
