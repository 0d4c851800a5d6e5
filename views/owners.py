"""Ask the workers that hold the partitions, and never answer with less than all of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, NamedTuple

import aiohttp
import msgspec
from yarl import URL

from streams.errors import IncompleteAnswerError
from streams.internal import token_headers
from streams.partitioner import partition_of
from streams.request_id import id_headers
from streams.settings import Web
from streams.topics import changelog_of
from tables.registry import StreamTables
from views.profiles import is_misrouted

log = logging.getLogger(__name__)

PEER_TIMEOUT_S = 10.0
WITHOUT_TOKEN = Web()
_encode = msgspec.msgpack.Encoder().encode


class Part(NamedTuple):
    """What one owner said of its partitions.

    Attributes:
        url: None where nobody owns them.
        answer: None where it did not answer.
    """

    url: str | None
    partitions: list[int]
    answer: Any


class Owners:
    """Who holds which partition of a stream, by what Faust's leader told at the last rebalance.

    Attributes:
        internal: what the paths begin with under which workers ask each other about it.
    """

    def __init__(self, app: Any, tables: StreamTables, *, partitions: int, web: Web = WITHOUT_TOKEN) -> None:
        self._app = app
        self._headers = token_headers(web)
        self._tables = tables
        self.partitions = partitions
        self.internal = f"internal{tables.stream.path}"
        self.misrouted = False
        self._has_looked = False

    def is_ready(self) -> bool:
        """Say whether this worker may answer for its partitions: recovered, and no rebalance under way."""
        return bool(self._app.tables.actives_ready and not self._app.rebalancing)

    def holds(self, partitions: Iterable[int]) -> bool:
        """Say whether this worker is ready and owns all of these, their stores open."""
        wanted = set(partitions)
        return self.is_ready() and all(wanted <= set(table.data.owned()) for table in self._tables.all)

    def partitions_of(self, user: str) -> list[int]:
        """Return where the rows of a user are: one partition, or all once a producer was seen that partitions otherwise.

        After a start it is all as well, until every peer has told what it remembers: one of them may have seen it before.
        """
        self.misrouted = self.misrouted or is_misrouted(self._tables)
        if self.misrouted or not self._has_looked:
            return list(range(self.partitions))
        return [partition_of(user.encode(), self.partitions)]

    def by_owner(self, partitions: Iterable[int]) -> dict[str, list[int]]:
        """Return the wanted partitions by the URL of their owner.

        Raises:
            IncompleteAnswerError: nobody owns one of them.
        """
        owner_of = self._owner_of()
        wanted: dict[str, list[int]] = {}
        for partition in partitions:
            if partition not in owner_of:
                raise IncompleteAnswerError(f"partition {partition} has no owner")
            wanted.setdefault(owner_of[partition], []).append(partition)
        return wanted

    def _owner_of(self) -> dict[int, str]:
        """Return the URL of the owner by partition."""
        topic = changelog_of(self._tables.stream.blocks_table)
        metadata = self._app.router.tables_metadata()
        return {partition: url for url, topics in metadata.items() for partition in topics.get(topic, ())}

    async def ask_some(
        self, path: str, fields: Mapping[str, Any], here: Callable[[list[int]], Awaitable[Any]], *, timeout_s: float
    ) -> list[Part]:
        """Return what each owner says of its partitions, all of them together, and which have nobody who says anything.

        For answers that show what is missing; whoever needs the whole uses `ask`.
        """
        owner_of = self._owner_of()
        wanted: dict[str | None, list[int]] = {}
        for partition in range(self.partitions):
            wanted.setdefault(owner_of.get(partition), []).append(partition)

        async def part_of(url: str | None, mine: list[int]) -> Part:
            if url is None:
                return Part(None, mine, None)
            try:
                if URL(url) == URL(str(self._app.conf.canonical_url)):
                    return Part(url, mine, await self._ask_here(mine, here))
                return Part(url, mine, await self._ask_peer(URL(url) / path, mine, fields, timeout_s))
            except IncompleteAnswerError as error:
                log.debug("an answer without partitions %s: %s", mine, error)
                return Part(url, mine, None)

        return list(await asyncio.gather(*(part_of(*each) for each in wanted.items())))

    async def ask(
        self, path: str, partitions: Iterable[int], fields: Mapping[str, Any], here: Callable[[list[int]], Awaitable[Any]]
    ) -> list[Any]:
        """Return one answer an owner, each for the partitions it owns; this worker's own by a call of *here*.

        Raises:
            IncompleteAnswerError: an owner is not ready, or does not answer in time.
        """
        if not self.is_ready():
            raise IncompleteAnswerError("this worker is recovering or rebalancing")
        own_url = URL(str(self._app.conf.canonical_url))
        asked = [
            self._ask_here(mine, here) if URL(url) == own_url else self._ask_peer(URL(url) / path, mine, fields)
            for url, mine in self.by_owner(partitions).items()
        ]
        return list(await asyncio.gather(*asked))

    async def _ask_here(self, partitions: list[int], here: Callable[[list[int]], Awaitable[Any]]) -> Any:
        if not self.holds(partitions):
            raise IncompleteAnswerError(f"this worker does not hold partitions {partitions} yet")
        return await here(partitions)

    async def _ask_peer(
        self, url: URL, partitions: list[int], fields: Mapping[str, Any], timeout_s: float = PEER_TIMEOUT_S
    ) -> Any:
        body = _encode({**fields, "partitions": partitions})
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        client = self._app.http_client
        if client.closed:
            raise IncompleteAnswerError("this worker is stopping")
        try:
            async with client.post(url, data=body, headers={**self._headers, **id_headers()}, timeout=timeout) as response:
                if response.status != 200:
                    raise IncompleteAnswerError(f"the owner of partitions {partitions} is not ready")
                answer = msgspec.msgpack.decode(await response.read(), strict=False)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise IncompleteAnswerError(f"the owner of partitions {partitions} does not answer") from error
        self.misrouted = self.misrouted or answer["misrouted"]
        return answer["answer"]

    async def look_round(self) -> None:
        """Ask every peer whether it has seen a producer that partitions otherwise; one that is down is asked again later."""
        if not self.is_ready() or self.misrouted:
            return
        try:
            await self.ask(f"{self.internal}/look", range(self.partitions), {}, self._look_here)
        except IncompleteAnswerError as error:
            log.debug("could not ask every peer: %s", error)
        else:
            self._has_looked = True

    async def _look_here(self, partitions: list[int]) -> None:
        """Remember what is known here: the partition that tells of it may be somebody else's by the next query."""
        self.misrouted = self.misrouted or is_misrouted(self._tables)
