"""The compose file: right by the schema of the specification, and every name in it is one of ours or of its images."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jsonschema  # type: ignore[import-untyped]
import pytest

from tests.support.containers import DOCKER, PINNED, PORTS, check_command, check_settings, compose, filled_in, schema

SERVICES = compose()["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"] == "tally:local"}
SECRETS = {"POSTGRES_PASSWORD": "s3cret", "TALLY_WEB_TOKEN": "t" * 64, "GRAFANA_PASSWORD": "s3cret"}
KINDS = {"worker-0": "worker", "worker-1": "worker", "gateway-1": "gateway", "gateway-2": "gateway", "sinks": "sinks"}
OWN_ROOT = {"kafka", "postgres"}
"""Images that write beside their volumes, and cannot be tried here."""


def environment(name: str) -> dict[str, str]:
    given = SERVICES[name].get("environment", {})
    return {key: filled_in(str(value), SECRETS) for key, value in given.items()}


def test_file_is_right_by_the_specification() -> None:
    """A18: an engine reads it as it is meant."""
    validator = jsonschema.Draft202012Validator(schema("compose-spec.json"))
    assert [f"{list(error.path)}: {error.message}" for error in validator.iter_errors(compose())] == []


def test_the_whole_system_is_in_it() -> None:
    """Issue 6, point 4: two workers, two gateways behind a balancer, sinks, topics and tables, and what watches them."""
    assert {*KINDS, "prepare"} == set(OURS)
    assert {"kafka", "postgres", "haproxy", "prometheus", "grafana"} == set(SERVICES) - set(OURS)


@pytest.mark.parametrize("name", list(OURS))
def test_commands_and_settings_are_ours(name: str, tmp_path: Path) -> None:
    """A setting that was renamed would stop the container, and nobody here can start one."""
    assert check_command(OURS[name]["command"]) == KINDS.get(name, "prepare")
    settings = check_settings(environment(name), tmp_path)
    assert settings.kafka.servers
    assert settings.postgres.dsn


@pytest.mark.parametrize("name", list(KINDS))
def test_health_is_asked_where_the_process_listens(name: str) -> None:
    """The image asks the gateway's port unless it is told another."""
    url = urlsplit(environment(name).get("HEALTH_URL", "http://127.0.0.1:8080/ready"))
    assert (url.port, url.path) == (PORTS[KINDS[name]], "/ready")


def test_gateways_and_workers_know_each_other() -> None:
    """Each worker is reached by the name that it tells its peers."""
    told = {urlsplit(url) for url in environment("gateway-1")["TALLY_GATEWAY_WORKERS"].split(",")}
    assert {(url.hostname, url.port) for url in told} == {
        (environment(name)["TALLY_WEB_HOST"], PORTS["worker"]) for name in ("worker-0", "worker-1")
    }
    assert {environment(name)["TALLY_WEB_HOST"] for name in ("worker-0", "worker-1")} <= set(SERVICES)
    assert urlsplit(environment("gateway-1")["TALLY_DASHBOARD_SINKS_URL"]).netloc == f"sinks:{PORTS['sinks']}"
    balancer = environment("haproxy")
    assert {balancer["TALLY_GATEWAY_1"], balancer["TALLY_GATEWAY_2"]} == {
        f"{name}:{PORTS['gateway']}" for name in ("gateway-1", "gateway-2")
    }


@pytest.mark.parametrize("name", list(SERVICES))
def test_service_is_pinned_watched_and_may_do_little(name: str) -> None:
    """security.md: exact versions, a health check, no further rights; a read-only root but where an image cannot."""
    service = SERVICES[name]
    assert name in OURS or PINNED.fullmatch(service["image"])
    assert "healthcheck" in service or name in OURS
    assert "no-new-privileges:true" in service["security_opt"]
    assert name in OWN_ROOT or service["read_only"] is True
    for port in service.get("ports", ()):
        assert port.startswith("127.0.0.1:"), "reachable from this machine only"


def test_files_that_are_mounted_exist() -> None:
    """Docker makes an empty folder, of root's, of one that does not."""
    mounts = [mount for service in SERVICES.values() for mount in service.get("volumes", ())]
    folders = [mount.split(":")[0] for mount in mounts if mount.startswith(".")]
    assert folders
    assert [folder for folder in folders if not (DOCKER / folder).is_dir()] == []
    named = {mount.split(":")[0] for mount in mounts if not mount.startswith(".")}
    assert named == set(compose()["volumes"])


def test_nothing_starts_before_what_it_needs() -> None:
    """A condition names a service, and one that tells its health where health is waited for."""
    for name, service in SERVICES.items():
        for needed, how in service.get("depends_on", {}).items():
            assert needed in SERVICES, (name, needed)
            ends = how["condition"] == "service_completed_successfully"
            assert ends == (needed == "prepare"), (name, needed)


def test_comments_name_every_variable_that_must_be_set() -> None:
    """The first start is by the comment."""
    text = (DOCKER / "compose.yaml").read_text()
    wanted = set(re.findall(r"\$\{(\w+):\?", text))
    assert wanted == set(SECRETS)
    exported = next(line for line in text.splitlines() if "export " in line)
    assert all(f"{name}=" in exported for name in wanted)


def test_scraped_addresses_are_services() -> None:
    """Prometheus' file names hosts of this file, at the ports where our processes listen."""
    import yaml

    scraped: list[dict[str, Any]] = yaml.safe_load((DOCKER / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    targets = [target for job in scraped for group in job.get("static_configs", ()) for target in group["targets"]]
    hosts = {host: int(port) for host, _, port in (target.partition(":") for target in targets) if host in SERVICES}
    assert set(KINDS) <= set(hosts)
    assert all(hosts[name] == PORTS[kind] for name, kind in KINDS.items())
