"""The compose file: right by the schema of the specification, and every name in it is one of ours or of its images."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jsonschema  # type: ignore[import-untyped]
import pytest

from gateway.auth.__main__ import _parser as keys_parser
from gateway.auth.identity import NOBODY
from tests.support.containers import (
    DOCKER,
    PINNED,
    PORTS,
    check_command,
    check_settings,
    compose,
    filled_in,
    schema,
    who_may_write,
)

SERVICES = compose()["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"] == "tally:local"}
SECRETS = {"POSTGRES_PASSWORD": "s3cret", "TALLY_WEB_TOKEN": "t" * 64, "GRAFANA_PASSWORD": "s3cret"}
KINDS = {"worker-0": "worker", "worker-1": "worker", "gateway-1": "gateway", "gateway-2": "gateway", "sinks": "sinks"}
GATEWAYS = [name for name, kind in KINDS.items() if kind == "gateway"]
TOOLS = {"kafka-console", "pgweb"}
OWN_ROOT = {"kafka", "postgres"}
"""Images that write beside their volumes, and cannot be tried here."""


def environment(name: str, **exported: str) -> dict[str, str]:
    given = SERVICES[name].get("environment", {})
    return {key: filled_in(str(value), SECRETS | exported) for key, value in given.items()}


def test_file_is_right_by_the_specification() -> None:
    """A18: an engine reads it as it is meant."""
    validator = jsonschema.Draft202012Validator(schema("compose-spec.json"))
    assert [f"{list(error.path)}: {error.message}" for error in validator.iter_errors(compose())] == []


def test_the_whole_system_is_in_it() -> None:
    """Issue 6, point 4: two workers, two gateways behind a balancer, sinks, topics and tables, and what watches them."""
    assert {*KINDS, "prepare", "keys"} == set(OURS)
    assert {"kafka", "postgres", "haproxy", "prometheus", "grafana", *TOOLS} == set(SERVICES) - set(OURS)


def test_one_command_starts_it_and_another_word_the_tools_to_look_inside() -> None:
    """P20: a page each for the database and the queue, of this machine only, and not there unless it is asked for."""
    assert {name for name, service in SERVICES.items() if service.get("profiles") == ["tools"]} == TOOLS
    assert SERVICES["kafka-console"]["environment"]["KAFKA_BROKERS"] == environment("worker-0")["TALLY_KAFKA_SERVERS"]
    told = urlsplit(environment("pgweb")["PGWEB_DATABASE_URL"])._replace(query="").geturl()
    assert told == environment("sinks")["TALLY_POSTGRES_DSN"]


@pytest.mark.parametrize("name", [*KINDS, "prepare"])
def test_commands_and_settings_are_ours(name: str, tmp_path: Path) -> None:
    """A setting that was renamed would stop the container, and nobody here can start one."""
    assert check_command(OURS[name]["command"]) == KINDS.get(name, "prepare")
    settings = check_settings(environment(name), tmp_path)
    assert settings.kafka.servers
    assert settings.postgres.dsn


@pytest.mark.parametrize("name", GATEWAYS)
async def test_who_may_write_is_said_on_purpose(name: str, tmp_path: Path) -> None:
    """P9: everybody who reaches a door that is published on this machine alone; by two variables API keys and nobody else."""
    assert await who_may_write(check_settings(environment(name), tmp_path)) == {"events": NOBODY, "analytics": NOBODY}
    closed = environment(name, TALLY_AUTH_TRUST_NETWORK="false", TALLY_AUTH_EVENTS="on")
    told = {"events": "no_credentials", "analytics": "auth_off"}
    assert await who_may_write(check_settings(closed, tmp_path)) == told


def test_keys_are_made_where_the_gateways_look_for_them() -> None:
    """By the command of the comment, in a volume that only this command may write."""
    service = SERVICES["keys"]
    assert service["profiles"] == ["keys"], "`up` must not wait for it"
    program, *arguments = service["entrypoint"]
    assert (program, arguments[:2]) == ("python", ["-m", "gateway.auth"])
    words = re.findall(r"run --rm keys (.+)", (DOCKER / "compose.yaml").read_text())
    assert len(words) == 2
    for line in words:
        assert keys_parser().parse_args([*arguments[2:], *line.partition("`")[0].split()]).subject == "keys"
    (volume,) = service["volumes"]
    for name in GATEWAYS:
        assert SERVICES[name]["volumes"] == [f"{volume}:ro"]
        path = environment(name)["TALLY_AUTH_KEYS_FILE"]
        assert path == environment("keys")["TALLY_AUTH_KEYS_FILE"]
        assert str(Path(path).parent) == volume.split(":")[1]


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
