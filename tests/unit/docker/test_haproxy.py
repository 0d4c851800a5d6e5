"""The balancer's configuration: HAProxy takes it, and it agrees with the gateway's settings and paths."""

from __future__ import annotations

import re
import subprocess

import pytest

from streams.settings import Settings
from tests.support.containers import STORING, compose
from tests.support.haproxy import CONFIG, environment, haproxy

TEXT = CONFIG.read_text()


@pytest.mark.parametrize("more", [{}, {"TALLY_BALANCER_DNS": "yes"}], ids=["addresses", "names"])
def test_haproxy_takes_the_configuration(more: dict[str, str]) -> None:
    """A18: by the program itself."""
    told = environment(port=8080, stats_port=8404, gateways=["127.0.0.1:1", "127.0.0.1:2"]) | more
    answer = subprocess.run([haproxy(), "-c", "-f", str(CONFIG)], env=told, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert "WARNING" not in answer.stderr


def test_every_variable_is_told() -> None:
    """HAProxy takes a missing one for an empty text."""
    wanted = set(re.findall(r"\$\{(\w+)\}", TEXT))
    asked = set(re.findall(r"defined\((\w+)\)", TEXT))
    assert asked == {"TALLY_BALANCER_DNS"}
    assert wanted | asked == set(compose()["services"]["haproxy"]["environment"])
    assert wanted <= set(environment(port=1, stats_port=2, gateways=["a:1", "b:2"]))


def test_gateways_that_get_other_addresses_are_found_again() -> None:
    """A container that is made anew has another address: HAProxy looked its name up once, and said 503 from then on."""
    by_name = TEXT[TEXT.index(".else") : TEXT.index(".endif")]
    (section,) = re.findall(r"default-server init-addr last,libc,none resolvers (\w+)", by_name)
    assert f"\nresolvers {section}\n" in by_name
    held = dict(re.findall(r"hold (\w+) (\w+)", by_name))
    assert held.pop("valid") == "1s"
    assert held == dict.fromkeys(("nx", "other", "refused", "timeout"), "1d"), "checks say who is away, not name servers"


def test_whatever_stores_something_is_never_sent_twice() -> None:
    """Such a request goes where events are taken while no worker is ready, and where only a connection is tried again."""
    (paths,) = re.findall(r"acl stores path (.+)", TEXT)
    assert set(paths.split()) == STORING
    tags, queries = (re.split(r"^backend ", TEXT, flags=re.MULTILINE)[number] for number in (1, 2))
    assert re.findall(r"retry-on (.+)", tags) == ["conn-failure"]
    assert "/ready?for=events" in tags
    assert "503" in queries


def test_balancer_waits_longer_than_a_query_may() -> None:
    """Else it gives up what the gateway is still waiting for, and answers 504."""
    (seconds,) = re.findall(r"timeout server (\d+)s", TEXT)
    assert int(seconds) > Settings().gateway.query_timeout_s


def test_gateway_drains_longer_than_the_balancer_needs_to_notice() -> None:
    """Two failed checks, half a second apart at most, and one that has just begun."""
    for interval_ms, falls in re.findall(r"check inter (\d+)ms .*?fall (\d+)", TEXT):
        assert (int(falls) + 1) * int(interval_ms) / 1000 < Settings().gateway.drain_s
