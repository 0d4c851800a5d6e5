"""The Kubernetes manifests: right by the API's schemas, and every name in them leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest

from gateway.auth.__main__ import _parser as keys_parser
from gateway.auth.api_keys import read_keys
from gateway.events_route import BODY_BYTES_MAX
from streams.metrics import WorkerMetrics
from streams.settings import Settings
from tests.support.containers import (
    KUBERNETES,
    PORTS,
    PRODUCTION,
    STORING,
    check_command,
    check_settings,
    documents,
    who_may_write,
)

FILES = sorted(path for path in KUBERNETES.glob("*.yaml") if path.name != "kustomization.yaml")
ALL = [document for path in FILES for document in documents(path)]
VERSIONS = ("1.29.0", "1.34.0")
CUSTOM = {"ScaledObject"}
"""Kinds that the API server learns from somebody else."""
WORKLOADS = [document for document in ALL if document["kind"] in ("Deployment", "StatefulSet", "Job")]


def the(kind: str, name: str) -> dict[str, Any]:
    (found,) = [each for each in ALL if each["kind"] == kind and each["metadata"]["name"] == name]
    return found


def name_of(document: dict[str, Any]) -> str:
    return f"{document['kind']}-{document['metadata']['name']}"


def pod_of(workload: dict[str, Any]) -> dict[str, Any]:
    pod: dict[str, Any] = workload["spec"]["template"]["spec"]
    return pod


def labels_of(workload: dict[str, Any]) -> dict[str, str]:
    labels: dict[str, str] = workload["spec"]["template"]["metadata"]["labels"]
    return labels


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("document", [each for each in ALL if each["kind"] not in CUSTOM], ids=name_of)
def test_manifest_is_right_by_the_api(document: dict[str, Any], version: str) -> None:
    """Strictly: a misspelt field, which the server would drop, counts."""
    kubernetes_validate.validate(document, version, strict=True)


def test_everything_is_applied_or_said_to_be_left_out() -> None:
    """A file that nobody applies is found when it is needed."""
    text = (KUBERNETES / "kustomization.yaml").read_text()
    applied = documents(KUBERNETES / "kustomization.yaml")[0]["resources"]
    assert [name for name in applied if not (KUBERNETES / name).is_file()] == []
    left_out = {path.name for path in FILES} - set(applied)
    comments = " ".join(line for line in text.splitlines() if line.startswith("#"))
    assert [name for name in left_out if name not in comments] == []


@pytest.mark.parametrize("workload", WORKLOADS, ids=name_of)
def test_pod_starts_what_exists_with_settings_that_exist(workload: dict[str, Any], tmp_path: Path) -> None:
    """The same names as everywhere; nobody here can start a pod."""
    (container,) = pod_of(workload)["containers"]
    kind = labels_of(workload)["app.kubernetes.io/component"]
    assert check_command(container["command"]) == kind
    given = {entry["name"]: entry.get("value", "x") for entry in container.get("env", ())}
    settings = check_settings({**the("ConfigMap", "tally-settings")["data"], **given}, tmp_path)
    assert settings.kafka.security_protocol == "SASL_SSL"
    assert [port["containerPort"] for port in container.get("ports", ())] == ([PORTS[kind]] if kind in PORTS else [])


@pytest.mark.parametrize("workload", WORKLOADS, ids=name_of)
def test_pod_may_do_nothing_but_its_work(workload: dict[str, Any]) -> None:
    """security.md: the standard `restricted`, no token of the API, memory bounded."""
    pod = pod_of(workload)
    (container,) = pod["containers"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"cpu", "memory"} <= set(container["resources"]["requests"])
    assert "memory" in container["resources"]["limits"]


@pytest.mark.parametrize("workload", [each for each in WORKLOADS if each["kind"] != "Job"], ids=name_of)
def test_probes_ask_what_is_answered(workload: dict[str, Any]) -> None:
    """`/live` never asks Kafka: an outage of it must not restart everything; `/ready` alone decides who is asked."""
    (container,) = pod_of(workload)["containers"]
    ports = {port["name"] for port in container["ports"]}
    paths = {kind: container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "liveness", "readiness")}
    assert paths == {"startup": "/live", "liveness": "/live", "readiness": "/ready"}
    assert {container[f"{kind}Probe"]["httpGet"]["port"] for kind in paths} <= ports


def test_pods_are_given_time_to_drain(tmp_path: Path) -> None:
    """The grace of the pod is longer than the drain time and what a stop takes."""
    settings = check_settings(the("ConfigMap", "tally-settings")["data"], tmp_path)
    for name, drain_s in (("gateway", settings.gateway.drain_s), ("worker", settings.worker.drain_s)):
        (pod,) = [pod_of(each) for each in WORKLOADS if labels_of(each)["app.kubernetes.io/component"] == name]
        assert pod["terminationGracePeriodSeconds"] > drain_s + 10


def test_names_lead_somewhere() -> None:
    """Selectors find pods, services their ports, volumes their secrets, secrets' keys their files."""
    labels = [labels_of(each) for each in WORKLOADS]
    for document in ALL:
        selector = document["spec"].get("selector", {}) if document["kind"] in ("Service", "PodDisruptionBudget") else {}
        wanted = selector.get("matchLabels", selector)
        assert any(wanted.items() <= each.items() for each in labels), name_of(document)
    for secret, folder in (("tally-secrets", "secrets"), ("tally-api-keys", "keys")):
        keys = set(the("Secret", secret)["stringData"])
        named = set(re.findall(rf"/etc/tally/{folder}/([\w.-]+)", "".join(path.read_text() for path in FILES)))
        assert named == keys
    for workload in WORKLOADS:
        pod = pod_of(workload)
        claims = {each["metadata"]["name"] for each in workload["spec"].get("volumeClaimTemplates", ())}
        volumes = {volume["name"] for volume in pod["volumes"]} | claims
        assert all(the("Secret", volume["secret"]["secretName"]) for volume in pod["volumes"] if "secret" in volume)
        assert {mount["name"] for mount in pod["containers"][0]["volumeMounts"]} == volumes
        assert pod["containers"][0]["envFrom"] == [{"configMapRef": {"name": "tally-settings"}}]


async def test_nobody_writes_for_products_without_credentials(tmp_path: Path) -> None:
    """P9, P10: others reach a pod, so API keys are asked for, tokens of the Labs too once they are on, and TLS is wanted."""
    settings = check_settings(the("ConfigMap", "tally-settings")["data"], tmp_path)
    assert await who_may_write(settings) == {"events": "no_credentials", "analytics": "auth_off"}
    assert settings.gateway.environment == PRODUCTION.environment
    (pod,) = [pod_of(each) for each in WORKLOADS if labels_of(each)["app.kubernetes.io/component"] == "gateway"]
    mounts = {mount["mountPath"]: mount for mount in pod["containers"][0]["volumeMounts"]}
    assert "subPath" not in mounts[str(Path(settings.auth.keys_file).parent)], "the kubelet never changes such a file"


def test_example_of_the_keys_is_a_file_that_the_gateway_reads(tmp_path: Path) -> None:
    """And no key is in it; the command of the comment makes the real one."""
    (line,) = re.findall(r"python -m gateway\.auth (.+)", (KUBERNETES / "secret.example.yaml").read_text())
    assert keys_parser().parse_args(line.split()).file == "keys.json"
    path = tmp_path / "keys.json"
    path.write_text(the("Secret", "tally-api-keys")["stringData"]["keys.json"])
    assert read_keys(path) == {}


def test_ingress_lets_in_what_may_be_sent() -> None:
    """Every path that stores something, and the largest body of any."""
    ingress = the("Ingress", "tally")
    paths = [(entry["path"], entry["pathType"]) for entry in ingress["spec"]["rules"][0]["http"]["paths"]]
    left_out = [
        path for path in STORING if not any(path == each or (kind == "Prefix" and path == f"{each}/") for each, kind in paths)
    ]
    assert left_out == []
    (mebibytes,) = re.findall(r"^(\d+)m$", ingress["metadata"]["annotations"]["nginx.ingress.kubernetes.io/proxy-body-size"])
    assert int(mebibytes) << 20 >= max(BODY_BYTES_MAX, Settings().analytics.body_bytes_max, Settings().gateway.body_bytes_max)


def test_gateways_know_as_many_workers_as_there_may_be() -> None:
    """A worker that is scaled up and not asked would only serve its peers."""
    stateful, scaled = the("StatefulSet", "worker"), the("ScaledObject", "worker")
    data = the("ConfigMap", "tally-settings")["data"]
    most = scaled["spec"]["maxReplicaCount"]
    assert str(most) == data["TALLY_TOPICS_PARTITIONS"]
    urls = [f"http://worker-{number}.{stateful['spec']['serviceName']}:{PORTS['worker']}" for number in range(most)]
    assert data["TALLY_GATEWAY_WORKERS"].split(",") == urls
    assert scaled["spec"]["scaleTargetRef"]["name"] == stateful["metadata"]["name"]
    assert scaled["spec"]["minReplicaCount"] == stateful["spec"]["replicas"]


def test_scaling_goes_by_a_metric_that_exists() -> None:
    """A query without a series never scales."""
    (trigger,) = the("ScaledObject", "worker")["spec"]["triggers"]
    names = re.findall(r"tally_\w+", trigger["metadata"]["query"])
    assert names
    assert set(names) <= {metric.name for metric in WorkerMetrics().registry.collect()}


def test_what_must_not_end_at_once_is_guarded() -> None:
    """A drain of nodes leaves one of each."""
    assert {each["metadata"]["name"] for each in ALL if each["kind"] == "PodDisruptionBudget"} >= {"gateway", "worker"}
