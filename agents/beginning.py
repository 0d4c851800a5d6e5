"""Decide where counting begins after a seek: the pure rule that tells a fresh start from lost events."""

from __future__ import annotations

from typing import NamedTuple

from streams.errors import LostEventsError
from streams.topics import BUCKET_OFFSETS


class Beginning(NamedTuple):
    """What to do before the first batch of an epoch.

    Attributes:
        seed: start the open bucket from its stored versions, because the log has lost its beginning.
        through: last offset that the stored versions hold; meaningless without `seed`.
    """

    seed: bool
    through: int = -1


def beginning_at(position: int, *, committed: int | None, log_start: int, counted: int | None, accept_lost: bool) -> Beginning:
    """Return how the bucket of *position* begins.

    Args:
        position: offset that is read on from: the commit, or the log's start where that is later.
        committed: a bucket's start, or None where the group has committed nothing.
        log_start: first offset that the source still holds.
        counted: offset before which the stored state has everything, None where nothing is stored.
        accept_lost: go on although events are gone that were never counted.

    Raises:
        LostEventsError: the source has lost events between *counted* and its start.
    """
    if log_start <= (committed or 0):
        return Beginning(seed=False)
    if committed is None and counted is None:  # the first start ever: what the log still has is all there is
        return Beginning(seed=False)
    if (counted or 0) < log_start and not accept_lost:
        raise LostEventsError(
            f"the source holds nothing before offset {log_start}, but only events before {counted or committed or 0} are "
            "counted: its retention was shorter than the outage; to go on without them start with "
            "TALLY_WORKER_ACCEPT_LOST_EVENTS=true"
        )
    bucket_start = position // BUCKET_OFFSETS * BUCKET_OFFSETS
    if position == bucket_start or counted is None or counted <= bucket_start:
        return Beginning(seed=False)
    return Beginning(seed=True, through=counted - 1)
