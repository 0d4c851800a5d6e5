"""Which port a service takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from stack import ports

TAKEN = {9092, 9093}


@pytest.fixture(autouse=True)
def _known_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "is_free", lambda port: port not in TAKEN)
    monkeypatch.setattr(ports, "free_port", lambda: 40_000)


@pytest.mark.parametrize(
    ("wished", "remembered", "chosen"),
    [
        pytest.param(7000, 8000, 7000, id="the wished one"),
        pytest.param(9092, 8000, 8000, id="wished is taken: that of last time"),
        pytest.param(0, 8000, 8000, id="no wish: that of last time"),
        pytest.param(9092, 9093, 40_000, id="both taken: any"),
        pytest.param(0, 0, 40_000, id="first start without a wish"),
    ],
)
def test_port_is_the_wished_one_else_that_of_last_time_else_any(wished: int, remembered: int, chosen: int) -> None:
    """Two jobs run beside each other, and each finds its own addresses again."""
    assert ports.choose_port(wished, remembered) == chosen


def test_remembered_ports_are_read_back(tmp_path: Path) -> None:
    """A second start prefers the ports of the first."""
    ports.write_ports(tmp_path / "ports.json", {"broker": 9092})
    assert ports.read_ports(tmp_path / "ports.json") == {"broker": 9092}


@pytest.mark.parametrize("text", ["", "[]", "{", '{"broker": "x"}', '{"broker": 0}', '{"broker": 65536}'])
def test_damaged_memory_counts_as_none(tmp_path: Path, text: str) -> None:
    """A file cut short by a full disk must not stop the next start."""
    (tmp_path / "ports.json").write_text(text)
    assert ports.read_ports(tmp_path / "ports.json") == {}
