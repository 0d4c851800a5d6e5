"""Which doors the settings open, and what they tell of those they refuse."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.auth.door import Auth, Door
from gateway.auth.identity import NOBODY, Refused
from streams.errors import SettingsError
from streams.metrics import GatewayMetrics
from streams.settings import load_settings


def auth(metrics: Any = None, **variables: object) -> Auth:
    environ = {f"TALLY_{name.upper()}": str(value) for name, value in variables.items()}
    return Auth(load_settings(environ), metrics or GatewayMetrics())


async def refused(door: Door, *headers: tuple[bytes, bytes]) -> Refused:
    with pytest.raises(Refused) as caught:
        await door.identify(headers)
    return caught.value


async def test_without_authentication_this_machine_may_send_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    """Off is the default, so that a first try works; it must never be that without anybody knowing."""
    doors = auth()
    assert await doors.events.identify([]) is NOBODY
    assert await doors.analytics.identify([]) is NOBODY
    assert [(record.levelname, "AUTHENTICATION IS OFF" in record.message) for record in caplog.records] == [("WARNING", True)]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "example.org"])
async def test_without_authentication_nobody_may_send_where_others_reach_the_gateway(
    host: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Off holds for this machine only."""
    metrics = GatewayMetrics()
    doors = auth(metrics, gateway_host=host)
    assert (await refused(doors.events)).status == 403
    assert (await refused(doors.analytics, (b"authorization", b"Bearer x"))).status == 403
    assert "refuse every request" in caplog.text
    assert b'tally_gateway_requests_refused_total{intake="events",reason="auth_off"} 1.0' in metrics.text()


async def test_the_network_is_trusted_only_when_somebody_says_so(caplog: pytest.LogCaptureFixture) -> None:
    """Behind something that authenticates; it is told at every start all the same."""
    assert await auth(gateway_host="0.0.0.0", auth_trust_network=True).events.identify([]) is NOBODY
    assert "everybody who reaches this gateway may send" in caplog.text


URL = "https://keys.example/jwks"
BAD_SETTINGS: list[tuple[dict[str, object], str]] = [
    ({"auth_events": "on"}, "auth.events_key_set_url"),
    ({"auth_analytics": "on"}, "auth.analytics_key_set_url"),
    ({"auth_events": "on", "auth_events_key_set_url": URL}, "auth.events_issuer"),
    ({"auth_events": "on", "auth_events_key_set_url": URL, "auth_events_issuer": "x"}, "auth.events_audience"),
    ({"auth_analytics": "on", "auth_analytics_key_set_url": "http://keys.example/jwks"}, "https"),
    ({"auth_analytics": "on", "auth_analytics_key_set_url": "file:///etc/passwd"}, "https"),
    ({"auth_analytics": "on", "auth_analytics_key_set_url": "https://"}, "https"),
    (
        {"auth_analytics": "on", "auth_analytics_key_set_url": "https://169.254.169.254/latest"},
        "no key server has such an address",
    ),
    ({"auth_analytics": "on", "auth_analytics_key_set_url": "https://[fe80::1]/keys"}, "no key server has such an address"),
    ({"auth_analytics": "on", "auth_analytics_key_set_url": URL, "auth_analytics_algorithms": "HS256"}, "algorithms"),
    ({"auth_analytics": "on", "auth_analytics_key_set_url": URL, "auth_analytics_algorithms": "RS256,none"}, "algorithms"),
    ({"auth_analytics": "on", "auth_analytics_key_set_url": URL, "auth_analytics_algorithms": ""}, "algorithms"),
    ({"auth_analytics": "on", "auth_analytics_key_set_url": URL, "auth_subjects_file": "/nowhere"}, "auth.subjects_file"),
]


@pytest.mark.parametrize(("variables", "told"), BAD_SETTINGS)
def test_settings_that_would_let_the_wrong_ones_in_stop_the_start(variables: dict[str, object], told: str) -> None:
    """A shared secret as an algorithm, a token of another service; rows 2 and 8 of the security notes: whom keys come from."""
    with pytest.raises(SettingsError, match=told):
        auth(**variables)


async def test_only_the_scheme_that_is_set_is_taken(tmp_path: Path) -> None:
    """Keys alone: a token is of no use, and the other way round."""
    doors = auth(auth_events="on", auth_keys_file=tmp_path / "keys.json")
    assert (await refused(doors.events, (b"authorization", b"Bearer a.b.c"))).detail == "Wrong authentication scheme"
    assert (await refused(doors.events, (b"authorization", b"ApiKey a_b"))).detail == "Unknown API key"
    assert (await refused(doors.events)).status == 401


VALUES = st.one_of(
    st.binary(max_size=60),
    st.tuples(st.sampled_from([b"Bearer ", b"apikey ", b"Bearer\t", b""]), st.binary(max_size=60)).map(b"".join),
)
HEADERS = st.lists(st.tuples(st.sampled_from([b"authorization", b"x-forwarded-proto", b"host"]), VALUES), max_size=4)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(HEADERS)
async def test_no_headers_do_anything_but_be_refused(tmp_path: Path, headers: list[tuple[bytes, bytes]]) -> None:
    """P9: anybody can send them, and an exception would be a 500."""
    doors = auth(
        auth_events="on",
        auth_keys_file=tmp_path / "keys.json",
        auth_events_key_set_url=URL,
        auth_events_issuer="x",
        auth_events_audience="x",
        auth_analytics="on",
        auth_analytics_key_set_url=URL,
        gateway_environment="production",
    )
    assert (await refused(doors.events, *headers)).status in (401, 403)
    assert (await refused(doors.analytics, *headers)).status in (401, 403)


async def test_production_refuses_requests_without_tls_before_it_looks_at_them() -> None:
    """P10: with authentication off as well."""
    metrics = GatewayMetrics()
    door = auth(metrics, gateway_environment="production").analytics
    assert (await refused(door, (b"x-forwarded-proto", b"http"))).status == 403
    assert await door.identify([(b"x-forwarded-proto", b"https")]) is NOBODY
    assert b'tally_gateway_requests_refused_total{intake="analytics",reason="no_tls"} 1.0' in metrics.text()
    assert await auth(gateway_environment="testing").analytics.identify([(b"x-forwarded-proto", b"http")]) is NOBODY


async def test_quotas_and_scopes_are_counted_like_all_that_is_refused() -> None:
    """One metric tells why requests were not let through."""
    metrics = GatewayMetrics()
    door = auth(metrics, auth_quota_events_s=1).events
    door.take(NOBODY, events=1, size_bytes=1)
    with pytest.raises(Refused, match="more than 1 events a second"):
        door.take(NOBODY, events=1, size_bytes=1)
    assert b'tally_gateway_requests_refused_total{intake="events",reason="quota"} 1.0' in metrics.text()
    door.authorize(NOBODY, "web", "events.v1")


async def test_without_anything_to_keep_fresh_it_still_runs_until_it_is_cancelled() -> None:
    """What ends a task of the gateway ends the gateway."""
    doors = auth()
    running = asyncio.create_task(doors.run())
    await asyncio.sleep(0)
    assert not running.done()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await doors.close()
