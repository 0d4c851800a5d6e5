"""The case of authentication: what is sent with it is let in, and shares are of the rate without."""

from __future__ import annotations

import dataclasses
import json
from itertools import islice
from pathlib import Path

import pytest

from bench.batch_load import BatchLoad, BatchPlan, length_of
from bench.cases import gateway_auth
from bench.cases.gateway import Gateway
from bench.cases.gateway_auth import Side

PLAN = BatchPlan(port=1, connections=1, seconds=1, rate=None, seed=1, events=1, credentials=None)


async def test_credentials_take_turns_and_change_nothing_else(tmp_path: Path) -> None:
    """Ten producers, one event a request, each of its own id."""
    credentials = tmp_path / "keys.txt"
    credentials.write_text("ApiKey a\nApiKey b\n")
    with_keys = list(islice(BatchLoad(dataclasses.replace(PLAN, credentials=credentials)).requests(), 4))
    heads, bodies = zip(*(request.split(b"\r\n\r\n") for request in with_keys), strict=True)
    assert [b"Authorization: ApiKey a" in head for head in heads] == [True, False, True, False]
    assert [b"Authorization: ApiKey b" in head for head in heads] == [False, True, False, True]
    assert [length_of(head) for head in heads] == list(map(len, bodies))
    assert len({event["id"] for body in bodies for event in json.loads(body)["batch"]}) == 4
    without = next(iter(BatchLoad(PLAN).requests()))
    assert b"Authorization" not in without
    assert len(without.partition(b"\r\n\r\n")[2]) == len(bodies[0])


def test_shares_are_of_the_rate_without() -> None:
    """By processor time, and by the clock."""
    gateway = Gateway(1, 1, "")
    sides = {
        "none": Side(gateway, None, answered=1_000, wall_s=1.0, cpu_s=0.08),
        "API key": Side(gateway, Path("keys"), answered=900, wall_s=1.0, cpu_s=0.09),
    }
    figures = {figure.name: figure for figure in gateway_auth.figures(sides)}
    assert figures["none, CPU"].value == pytest.approx(80)
    assert figures["API key, CPU"].value == pytest.approx(100)
    assert figures["API key"].value == pytest.approx(80)
    assert figures["API key, wall"].value == pytest.approx(90)
    assert {name for name, figure in figures.items() if figure.goal == 80} == {"API key", "API key, wall"}
