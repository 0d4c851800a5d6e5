"""The balancer's configuration: HAProxy takes it, and it agrees with the gateway's settings and paths."""

from __future__ import annotations

import re
import subprocess

from streams.settings import Settings
from tests.support.containers import compose
from tests.support.haproxy import CONFIG, environment, haproxy

TEXT = CONFIG.read_text()


def test_haproxy_takes_the_configuration() -> None:
    """A18: by the program itself."""
    told = environment(port=8080, stats_port=8404, gateways=["127.0.0.1:1", "127.0.0.1:2"])
    answer = subprocess.run([haproxy(), "-c", "-f", str(CONFIG)], env=told, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert "WARNING" not in answer.stderr


def test_every_variable_is_told() -> None:
    """HAProxy takes a missing one for an empty text."""
    wanted = set(re.findall(r"\$\{(\w+)\}", TEXT))
    assert wanted == set(compose()["services"]["haproxy"]["environment"])
    assert wanted <= set(environment(port=1, stats_port=2, gateways=["a:1", "b:2"]))


def test_balancer_waits_longer_than_a_query_may() -> None:
    """Else it gives up what the gateway is still waiting for, and answers 504."""
    (seconds,) = re.findall(r"timeout server (\d+)s", TEXT)
    assert int(seconds) > Settings().gateway.query_timeout_s


def test_gateway_drains_longer_than_the_balancer_needs_to_notice() -> None:
    """Two failed checks, half a second apart at most, and one that has just begun."""
    for interval_ms, falls in re.findall(r"check inter (\d+)ms .*?fall (\d+)", TEXT):
        assert (int(falls) + 1) * int(interval_ms) / 1000 < Settings().gateway.drain_s
