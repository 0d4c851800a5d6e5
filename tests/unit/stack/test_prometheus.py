"""Prometheus beside the job: its targets are the job's processes, and the job does without it."""

from __future__ import annotations

from pathlib import Path

import pytest

from stack import run
from stack.errors import StackError
from stack.home import StackHome
from stack.processes import app_processes, targets_of
from stack.prometheus import LocalPrometheus, config_of
from streams.settings import load_settings


def test_every_process_is_scraped_under_the_name_of_its_kind() -> None:
    """Rules go by these names; a second worker has a port of its own."""
    settings = load_settings({"TALLY_GATEWAY_HOST": "0.0.0.0", "TALLY_WEB_PORT": "7000"})
    targets = targets_of(app_processes(settings, workers=2))
    assert targets == {
        "tally-sinks": ["127.0.0.1:6060"],
        "tally-worker": ["127.0.0.1:7000", "127.0.0.1:7001"],
        "tally-gateway": ["127.0.0.1:8080"],
    }
    config = config_of(targets, Path("/rules"), "15s")
    assert config["rule_files"] == ["/rules/*.rules.yml"]


def test_job_without_prometheus_says_so_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no part of Tally: who asked for it and has none must know, and have the rest."""
    said: list[str] = []
    monkeypatch.setenv("PATH", str(tmp_path))
    job = run.Job(StackHome(tmp_path), load_settings({}), run.Plan(observe=True), say=said.append)
    job._prepare_prometheus()
    assert len(said) == 1
    assert said[0].startswith("prometheus: none on the path")
    with pytest.raises(StackError, match="no prometheus on the path"):
        LocalPrometheus(tmp_path, {}).prepare()
