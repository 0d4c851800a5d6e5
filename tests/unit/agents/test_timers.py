"""What the timers look at: a topic that is cut otherwise ends the worker, and one that nobody leads at the moment does not."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from agents.protocol import CountingProtocol
from agents.timers import check_topics
from streams.errors import SettingsError
from streams.settings import Settings
from tests.support.stores import some_tables


def check(home: Path, found: int | None) -> None:
    """Check topics whose metadata say that they have so many partitions."""
    app: Any = SimpleNamespace(consumer=SimpleNamespace(topic_partitions=lambda topic: found))
    check_topics(app, cast(CountingProtocol, SimpleNamespace(tables=some_tables(home), settings=Settings())))


@pytest.mark.parametrize("found", [None, 0, Settings().topics.partitions])
def test_topics_that_are_right_or_not_known_now_are_let_be(tmp_path: Path, found: int | None) -> None:
    """While partitions are made, or their leaders chosen, Kafka names none of them: two workers that start at once saw that."""
    check(tmp_path, found)


def test_topics_with_other_partitions_end_the_worker(tmp_path: Path) -> None:
    """Answers would look in the wrong ones."""
    with pytest.raises(SettingsError, match="has 1 partitions"):
        check(tmp_path, 1)
