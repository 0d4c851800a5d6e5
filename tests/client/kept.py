"""A recorder that keeps what it is given, for tests of what is recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from tally_client.recorders import Recorder


@dataclass
class Submitted:
    """One transaction as a recorder hands it over."""

    data: list[dict[str, str]]
    pennkey: str | None

    @property
    def pairs(self) -> list[tuple[str, str]]:
        return [(each["key"], each["value"]) for each in self.data]


@dataclass
class Kept(Recorder):
    """A recorder that keeps what it is given."""

    transactions: list[Submitted] = field(default_factory=list)

    def submit(
        self,
        data: Sequence[Mapping[str, str]],
        product: int | None = None,
        pennkey: str | None = None,
        timestamp: float | datetime | None = None,
    ) -> None:
        assert product is None and timestamp is None
        self.transactions.append(Submitted([dict(each) for each in data], pennkey))

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """All that was recorded."""
        return [pair for each in self.transactions for pair in each.pairs]
