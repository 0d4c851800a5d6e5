"""The list of processes of a job."""

from __future__ import annotations

import pytest

from stack.processes import Address, app_processes, demo_program, worker_urls
from streams.settings import Settings, load_settings


def settings(**environment: str) -> Settings:
    return load_settings(environment)


def test_each_worker_has_its_own_number_and_port() -> None:
    """State and web views of two workers on one machine must not meet."""
    workers = [p for p in app_processes(settings(TALLY_WEB_PORT="7000"), workers=3) if "worker" in p.program.name]
    assert [p.program.name for p in workers] == ["worker-0", "worker-1", "worker-2"]
    assert [p.program.environment["TALLY_WORKER_INDEX"] for p in workers] == ["0", "1", "2"]
    assert [p.address.port for p in workers] == [7000, 7001, 7002]
    assert [p.program.command[-1] for p in workers] == ["7000", "7001", "7002"]


def test_what_sends_is_stopped_before_what_takes() -> None:
    """The gateway's last events must still find Kafka; the manager stops the greatest priority first."""
    names = ["demo", "gateway", "worker-0", "sinks"]
    programs = [demo_program(), *(p.program for p in app_processes(settings(), workers=1))]
    assert [p.name for p in sorted(programs, key=lambda program: -program.priority)] == names


def test_gateway_asks_the_workers_that_run_unless_told_otherwise() -> None:
    """`gateway.workers` empty means those that `make run` starts."""
    assert worker_urls(settings(), 2) == "http://127.0.0.1:6066,http://127.0.0.1:6067"
    assert worker_urls(settings(TALLY_GATEWAY_WORKERS="http://other:1"), 2) == "http://other:1"


@pytest.mark.parametrize(
    ("host", "url"),
    [("127.0.0.1", "http://127.0.0.1:80"), ("0.0.0.0", "http://127.0.0.1:80"), ("::", "http://[::1]:80")],
)
def test_address_that_means_all_is_reached_over_loopback(host: str, url: str) -> None:
    """No client connects to 0.0.0.0."""
    assert Address(host, 80, "gateway.port").url == url
