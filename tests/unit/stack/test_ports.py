"""Which port a service takes."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from stack import ports

TAKEN = {9092, 9093}
FREE_PORT = ports.free_port
"""Not the one of these tests."""


@pytest.fixture(autouse=True)
def _known_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "is_free", lambda port: port not in TAKEN)
    monkeypatch.setattr(ports, "free_port", lambda: 40_000)
    monkeypatch.setattr(ports, "reserve", lambda port: True)  # other runs of these tests reserve the same


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


CHOOSER = """
import sys
from stack.ports import choose_port
print(choose_port(int(sys.argv[1])), choose_port(int(sys.argv[1])), flush=True)
sys.stdin.read()
"""


def test_two_stacks_begun_at_once_do_not_choose_the_same_port() -> None:
    """Nobody listens yet, and will for seconds: the one would take the other's Kafka for its own."""
    wished = FREE_PORT()
    with ExitStack() as both:
        chosen = []
        for _ in range(2):
            command = [sys.executable, "-c", CHOOSER, str(wished)]
            process = both.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            assert process.stdin is not None and process.stdout is not None
            both.callback(process.stdin.close)
            chosen.append(process.stdout.readline().split())
    first, second = chosen
    assert first == [str(wished)] * 2
    assert str(wished) not in second


def test_remembered_ports_are_read_back(tmp_path: Path) -> None:
    """A second start prefers the ports of the first."""
    ports.write_ports(tmp_path / "ports.json", {"broker": 9092})
    assert ports.read_ports(tmp_path / "ports.json") == {"broker": 9092}


@pytest.mark.parametrize("text", ["", "[]", "{", '{"broker": "x"}', '{"broker": 0}', '{"broker": 65536}'])
def test_damaged_memory_counts_as_none(tmp_path: Path, text: str) -> None:
    """A file cut short by a full disk must not stop the next start."""
    (tmp_path / "ports.json").write_text(text)
    assert ports.read_ports(tmp_path / "ports.json") == {}
