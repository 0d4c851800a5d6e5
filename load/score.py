"""Reckon the score of the Allezon task: progress % x (right profile answers % + right aggregates answers %), at most 20,000.

The task does not say what progress is of; here it is of the tags that the run was to send, those answered 204 within their
200 ms. So a tag that is late, dropped or, because the run was ended, never sent lowers it, and so do, in their part, answers
to queries that are wrong, late or missing.
"""

from __future__ import annotations

from dataclasses import dataclass

from load.measures import Measures

SCORE_MAX = 20_000.0


@dataclass(frozen=True)
class Score:
    """The three shares of a run, each from 0 to 1."""

    progress: float
    profiles: float
    aggregates: float

    @property
    def points(self) -> float:
        """The score.

        >>> Score(progress=1.0, profiles=1.0, aggregates=1.0).points
        20000.0
        """
        return SCORE_MAX / 2 * self.progress * (self.profiles + self.aggregates)

    def line(self) -> str:
        """Return the score and where it comes from; whatever was lost shows in the digits."""
        return (
            f"score {self.points:,.2f} of {SCORE_MAX:,.0f}: progress {self.progress:.4%} x "
            f"(profiles {self.profiles:.4%} + aggregates {self.aggregates:.4%})"
        )


def score_of(measures: Measures, *, tags_planned: int) -> Score | None:
    """Return the score of a run; None where one of the two queries was never asked."""
    asked = {kind: measures.whole[kind].count for kind in ("profiles", "aggregates")}
    if not tags_planned or not all(asked.values()):
        return None
    shares = {kind: measures.right(kind) / count for kind, count in asked.items()}
    return Score(progress=measures.right("tags") / tags_planned, **shares)
