"""Alerts and dashboards ask for what is really measured, and each alert says what to do."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from stack.prometheus import config_of
from streams.metrics import GatewayMetrics, ProcessMetrics, SinkMetrics, WorkerMetrics
from tests.support.stack_fixtures import REQUIRE_VARIABLE
from tests.tidy.tree import ROOT, docs_text

PROMETHEUS = ROOT / "docker" / "prometheus"
GRAFANA = ROOT / "docker" / "grafana"
RUNBOOKS = ROOT / "docs" / "runbooks.md"
DASHBOARDS = sorted((GRAFANA / "dashboards").glob("*.json"))
PROCESSES: dict[str, type[ProcessMetrics]] = {
    "tally-gateway": GatewayMetrics,
    "tally-worker": WorkerMetrics,
    "tally-sinks": SinkMetrics,
}
OF_PROMETHEUS = {"up", "ALERTS"}
NAME = re.compile(r"(?<![\w:\"=~])((?:[a-z]+:)?tally[a-z0-9_:]+|up|ALERTS)(?=[{\[\s)]|$)")
SELECTOR = re.compile(r"(tally_[a-z0-9_]+)\{([^}]*)\}")
SEVERITIES = {"page", "warn", "none"}


def rules() -> list[dict[str, Any]]:
    return [
        rule
        for path in sorted((PROMETHEUS / "rules").glob("*.rules.yml"))
        for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]
        for rule in group["rules"]
    ]


ALERTS = [rule for rule in rules() if "alert" in rule]
RECORDED = {rule["record"] for rule in rules() if "record" in rule}


def queries() -> Iterator[tuple[str, str]]:
    """Yield every PromQL of rules and dashboards, with where it stands."""
    for rule in rules():
        yield rule.get("alert") or rule["record"], rule["expr"]
    for path in DASHBOARDS:
        dashboard = json.loads(path.read_text(encoding="utf-8"))
        for panel in dashboard["panels"]:
            yield from ((f"{path.stem}: {panel['title']}", target["expr"]) for target in panel["targets"])
        yield from ((f"{path.stem}: {each['name']}", each["expr"]) for each in dashboard["annotations"]["list"])
        for variable in dashboard["templating"]["list"]:
            yield f"{path.stem}: ${variable['name']}", re.sub(r"label_values\((\w+), \w+\)", r"\1", variable["query"])


QUERIES = sorted(set(queries()))


@cache
def measured() -> dict[str, set[str]]:
    """Return the labels of every series that our processes show, by its name as Prometheus stores it."""
    found: dict[str, set[str]] = {}
    for process in PROCESSES.values():
        metrics = process()
        labels = {value._name: set(value._labelnames) for value in vars(metrics).values() if hasattr(value, "_labelnames")}
        for metric in metrics.registry.collect():
            ends = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}.get(metric.type, ("",))
            for end in ends:
                own = labels.get(metric.name, set()) | ({"le"} if end == "_bucket" else set())
                found.setdefault(metric.name + end, set()).update(own, {"instance", "job"})
    return found


@pytest.mark.parametrize(("where", "query"), QUERIES, ids=[f"{where}-{n}" for n, (where, _) in enumerate(QUERIES)])
def test_query_asks_for_what_is_measured(where: str, query: str) -> None:
    """A name that nobody shows makes an alert that never fires and a panel that is empty for ever."""
    names = set(NAME.findall(query))
    assert names or query == "vector(1)", "the test sees no name in it"
    assert names - measured().keys() - RECORDED - OF_PROMETHEUS == set()
    for name, selector in SELECTOR.findall(query):
        assert set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector)) <= measured()[name], "an unknown label"


def test_every_job_that_rules_name_is_scraped() -> None:
    """Rules go by the job's name; `make run` and the containers give the same ones."""
    scraped = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text(encoding="utf-8"))["scrape_configs"]
    assert {job["job_name"] for job in scraped} - {"prometheus"} == set(PROCESSES)
    running: Any = config_of(dict.fromkeys(PROCESSES, ()), PROMETHEUS, "15s")["scrape_configs"]
    assert {job["job_name"] for job in running} == set(PROCESSES)
    assert {job for _, query in QUERIES for job in re.findall(r'job="([^"]+)"', query)} <= set(PROCESSES)


def test_metric_of_the_docs_is_measured() -> None:
    """The table is what people search; a name that is gone sends them looking for it."""
    told = set(re.findall(r"(?<![\w:])tally_[a-z0-9_]+(?![\w*-])", docs_text()))
    shown = {re.sub(r"_(bucket|count|sum)$", "", name) for name in measured()} | measured().keys()
    not_metrics = {"tally_reader", "tally_stats"}
    assert {name for name in told if not name.endswith("_")} - shown - not_metrics == set()


def section_of(alert: str) -> str:
    found = re.search(rf"^### {alert}\n(.*?)(?=^##|\Z)", RUNBOOKS.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert found, f"no section ### {alert}"
    return found[1]


@pytest.mark.parametrize("alert", ALERTS, ids=[alert["alert"] for alert in ALERTS])
def test_alert_has_a_severity_and_a_runbook(alert: dict[str, Any]) -> None:
    """Who is woken must know what it means, where to look and what to do."""
    name, severity = alert["alert"], alert["labels"]["severity"]
    assert severity in SEVERITIES
    assert alert["annotations"]["runbook_url"] == f"docs/runbooks.md#{name.lower()}"
    text = section_of(name)
    assert text.startswith(f"{severity} ·"), "the runbook tells another severity"
    assert all(f"**{part}**" in text for part in ("Means", "Look", "Act"))


def test_every_runbook_is_of_an_alert() -> None:
    """One that is left behind is read by nobody, and wrong soon."""
    assert set(re.findall(r"^### (\w+)$", RUNBOOKS.read_text(encoding="utf-8"), re.MULTILINE)) == {
        alert["alert"] for alert in ALERTS
    }


def test_no_alert_counts_records() -> None:
    """A fixed number of waiting records is no news at one rate and late at another: seconds, shares and progress are."""
    counted = re.compile(r"_(records|messages|rows|offset)\b[^<>=]*[<>]=? *[1-9]")
    assert not [alert["alert"] for alert in ALERTS if counted.search(alert["expr"])]


def promtool(*arguments: str) -> str:
    """Run promtool in the rules' folder and return what it says; without it the test is skipped, loudly."""
    program = shutil.which("promtool")
    if program is None:
        if os.environ.get(REQUIRE_VARIABLE) == "1":
            pytest.fail("promtool is required and not on the path; Debian has it in the package prometheus")
        pytest.skip("NO PROMTOOL: the rules are not checked")
    ran = subprocess.run([program, *arguments], cwd=PROMETHEUS, capture_output=True, text=True, check=False, timeout=60)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


def test_promtool_takes_the_configuration_and_the_rules(tmp_path: Path) -> None:
    """That of the containers, and the one that `make demo` writes."""
    assert "FAILED" not in promtool("check", "config", "prometheus.yml")
    written = tmp_path / "prometheus.yml"
    targets = {"tally-worker": ["127.0.0.1:6066"], "tally-sinks": []}
    written.write_text(json.dumps(config_of(targets, PROMETHEUS / "rules", "15s")), encoding="utf-8")
    assert f"{len(ALERTS)} rules found" in promtool("check", "config", str(written))


def test_promtool_sees_each_alert_fire_and_stay_quiet() -> None:
    """The test file has series for both; what always fires has none to stay quiet on."""
    cases = [case["name"] for case in yaml.safe_load((PROMETHEUS / "alerts.test.yml").read_text(encoding="utf-8"))["tests"]]
    names = [alert["alert"] for alert in ALERTS]
    assert cases == [
        f"{name} {does}"
        for name in names
        for does in ("fires", "stays quiet")
        if (name, does) != ("DeadMansSwitch", "stays quiet")
    ]
    assert "SUCCESS" in promtool("test", "rules", "alerts.test.yml")


@pytest.mark.parametrize("path", DASHBOARDS, ids=[path.stem for path in DASHBOARDS])
def test_dashboard_is_found_and_readable(path: Path) -> None:
    """Provisioned by file, on the provisioned source, each panel with a title and a unit, none on top of another."""
    dashboard = json.loads(path.read_text(encoding="utf-8"))
    source = yaml.safe_load((GRAFANA / "provisioning" / "datasources" / "prometheus.yml").read_text(encoding="utf-8"))
    uid = source["datasources"][0]["uid"]
    assert dashboard["uid"] == path.stem
    places = set()
    for panel in dashboard["panels"]:
        assert panel["datasource"]["uid"] == uid
        assert panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert all(target["legendFormat"] for target in panel["targets"])
        places.add((panel["gridPos"]["x"], panel["gridPos"]["y"]))
    assert len(places) == len(dashboard["panels"])
    assert len({panel["title"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
