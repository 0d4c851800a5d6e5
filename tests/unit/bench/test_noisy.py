"""The case of a noisy producer: a 429 is right only where it is expected, and a turn without noise is not counted."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from bench.batch_load import BatchConnection, BatchLoad, BatchPlan
from bench.cases import noisy
from bench.cases.gateway import Gateway
from bench.progress import BenchError

PLAN = BatchPlan(port=1, connections=1, seconds=1, rate=None, seed=1, events=1, credentials=None)
TOO_MANY = b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 2\r\n\r\n{}"


async def test_a_refusal_is_right_past_the_quota_only() -> None:
    """A quiet producer that is refused ends the run."""
    for past_quota in (False, True):
        load = BatchLoad(dataclasses.replace(PLAN, past_quota=past_quota))
        connection = load.connection()
        assert isinstance(connection, BatchConnection)
        assert connection.is_right(TOO_MANY) is past_quota
        assert load.refused == past_quota


def test_a_noise_that_was_let_in_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the figure would tell of two producers that keep to their quotas."""
    load = noisy.load_of(Path("keys"))
    for refused, is_noise in ((799, False), (800, True)):
        said = {"answered": 1_000, "refused": refused}
        monkeypatch.setattr(noisy, "run_load", lambda module, options, said=said: said)
        if is_noise:
            with noisy.noise(Gateway(1, 1, ""), load):
                pass
        else:
            with pytest.raises(BenchError, match="only 799 were refused"), noisy.noise(Gateway(1, 1, ""), load):
                pass


def test_the_rise_is_over_the_same_noise_elsewhere() -> None:
    """What the machine does to both is nobody's fault; and one turn that it spoiled says nothing."""
    turns = {"alone": [1.0, 2.0, 3.0], "noise at another gateway": [10.0, 12.0, 500.0], "beside the noise": [15.0, 900.0, 14.0]}
    found = {figure.name: figure.value for figure in noisy.figures(turns, turns)}
    assert (found["alone, p99"], found["noise at another gateway, p99"], found["beside the noise, p99"]) == (2.0, 12.0, 15.0)
    assert found["p99 is raised by sharing the gateway"] == pytest.approx(25.0)
