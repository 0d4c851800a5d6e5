"""Say whether an answer is right, by plain recomputation from what was sent.

The task allows an event to be missing from a profile for 10 s after its 204, and from the aggregates for 60 s. So an event is
*due* when it was acknowledged that long before the question was asked; any other that was sent may be in the answer or not. A
tag without a 204 may be stored for all we know, and stays so. With everything acknowledged and old enough there is one right
answer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise

from load.queries import PROFILE_LIMIT, AggregatesQuery, ProfileQuery, Tag
from load.sent import SentTag, SentTags

PROFILE_FRESH_S = 10.0
AGGREGATES_FRESH_S = 60.0


class Oracle:
    """Judges answers by the tags in *sent*, to which nobody else must have added any."""

    def __init__(self, sent: SentTags) -> None:
        self._sent = sent

    def accepts_profile(self, query: ProfileQuery, body: bytes, *, asked_s: float) -> bool:
        """Say whether a body is a right answer to a query that was asked at *asked_s* (by `perf_counter`)."""
        profile = query.read(body)
        if profile is None:
            return False
        sent: defaultdict[str, list[SentTag]] = defaultdict(list)
        for tag in self._sent.of_user(query.cookie.encode(), since_ms=query.start_ms):
            sent[tag.action].append(tag)
        fresh_s = asked_s - PROFILE_FRESH_S
        return _is_newest(profile.views, sent["VIEW"], query, fresh_s) and _is_newest(profile.buys, sent["BUY"], query, fresh_s)

    def accepts_aggregates(self, query: AggregatesQuery, body: bytes, *, asked_s: float) -> bool:
        """Say likewise; with tags that may be counted or not, count and sum must lie between those without and with them."""
        answer = query.read(body)
        if answer is None:
            return False
        least, most = self._sent.totals(query.first, query.end, query.filters, stored_by_s=asked_s - AGGREGATES_FRESH_S)
        places = [("COUNT", "SUM_PRICE").index(name) for name in query.aggregates]
        return all(
            least[place, minute] <= number <= most[place, minute]  # prices are not negative
            for minute, numbers in enumerate(answer)
            for place, number in zip(places, numbers, strict=True)
        )


def _is_newest(answer: Sequence[Tag], sent: Sequence[SentTag], query: ProfileQuery, fresh_s: float) -> bool:
    """Say whether an answer is what the rules make of the due tags and any of the others: the newest 200, of these the range,
    of these the first *limit*.

    Args:
        sent: all tags of the user and action since the range's start.
        fresh_s: tags acknowledged by then are due.
    """
    due_after = sum(tag.acknowledged_s <= fresh_s for tag in sent if tag.at_ms >= query.end_ms)
    all_after = sum(tag.at_ms >= query.end_ms for tag in sent)
    inside = [tag for tag in sent if tag.at_ms < query.end_ms]
    shown = _find(answer, inside)
    if shown is None or not _is_ordered(shown):
        return False
    numbers = {tag.number for tag in shown}
    missing_ms = [tag.at_ms for tag in inside if tag.acknowledged_s <= fresh_s and tag.number not in numbers]
    if not missing_ms:
        return len(shown) <= _room(due_after, query.limit)
    is_end_cut = not shown or max(missing_ms) <= shown[-1].at_ms
    return is_end_cut and _room(all_after, query.limit) <= len(shown) <= _room(due_after, query.limit)


def _room(newer: int, limit: int) -> int:
    """Return how many tags of the range an answer has room for, with so many newer ones past its end."""
    return min(limit, max(0, PROFILE_LIMIT - newer))


def _find(answer: Sequence[Tag], sent: Sequence[SentTag]) -> list[SentTag] | None:
    """Return the tag that was sent for each one that came back; None where one was not sent, or not as often."""
    known: defaultdict[int, list[SentTag]] = defaultdict(list)
    for tag in reversed(sent):
        known[tag.digest].append(tag)
    found = [known[hash(tag)].pop() if known.get(hash(tag)) else None for tag in answer]
    return [tag for tag in found if tag is not None] if None not in found else None


def _is_ordered(tags: Sequence[SentTag]) -> bool:
    """Say whether the newest come first; of one millisecond, one that was acknowledged before the other was sent comes after
    it, and of two that were under way together nobody knows which arrived first."""
    return all(
        newer.at_ms > older.at_ms or (newer.at_ms == older.at_ms and newer.acknowledged_s >= older.sent_s)
        for newer, older in pairwise(tags)
    )
