"""Alerts fire when they must, and what they and the dashboards ask for is what vaeseg tells."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from manifests import check_command
from monitoring import (
    DASHBOARDS,
    MONITORING,
    REPOSITORY,
    RULES_FILE,
    TEST_FILES,
    Tree,
    dashboard,
    expressions,
    metrics_in,
    panels,
    program,
    rules,
)

from vaeseg.telemetry import PIPELINE_METRICS

RULES = {rule["alert"]: rule for rule in rules()}
CASES = [case for path in TEST_FILES for case in yaml.safe_load(path.read_text())["tests"]]
DOCUMENT = (REPOSITORY / "docs" / "monitoring.md").read_text(encoding="utf-8")
ON_RAY = {f"ray_{metric.name}{'_total' * (metric.kind == 'counter')}" for metric in PIPELINE_METRICS}


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [program("promtool"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def labels_fired(alert: str) -> list[set[str]]:
    """Labels of every alert that its tests wait for."""
    samples = [
        sample["labels"]
        for case in CASES
        if case["name"].startswith(f"{alert}:")
        for check in case["promql_expr_test"]
        for sample in check["exp_samples"]
    ]
    return [set(re.findall(r"(\w+)=", labels)) - {"alertname"} for labels in samples]


def test_promtool_takes_the_files() -> None:
    """Syntax, and the templates in the texts."""
    done = promtool("check", "config", MONITORING / "prometheus.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(RULES)} rules found" in done.stdout


@pytest.mark.parametrize("path", TEST_FILES, ids=lambda path: path.stem)
def test_every_alert_fires_when_it_must_and_only_then(path: Path) -> None:
    """The cases of `cluster/monitoring/tests`, in Prometheus's own evaluation."""
    done = promtool("test", "rules", path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", RULES)
def test_an_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not(alert: str) -> None:
    """Cases are named after their alert, ask for it alone, and the silent one is silent at every moment."""
    cases = [case for case in CASES if case["name"].startswith(f"{alert}:")]
    waited_for = [[check["exp_samples"] for check in case["promql_expr_test"]] for case in cases]
    assert any(any(samples) for samples in waited_for)
    assert any(not any(samples) for samples in waited_for)
    assert all(f'alertname="{alert}"' in check["expr"] for case in cases for check in case["promql_expr_test"])


@pytest.mark.parametrize("alert", RULES)
def test_an_alert_says_what_to_do(alert: str) -> None:
    """What happened, what to look at, commands that exist; labels that it names are labels that it has."""
    rule = RULES[alert]
    assert set(rule["annotations"]) == {"summary", "description", "runbook"}
    assert rule["labels"]["severity"] in ("critical", "warning")
    named = set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())))
    assert labels_fired(alert)
    assert all(named <= labels for labels in labels_fired(alert))
    shown = re.sub(r"\{\{ .*? \}\}", "X", rule["annotations"]["runbook"]).replace(" FILE", f" {__file__}")
    commands = re.findall(r"`vaeseg-batch ([^`]+)`", shown)
    assert len(commands) == shown.count("vaeseg-batch") > 0
    for command in commands:
        check_command(shlex.split(command))


def test_the_scrape_names_what_compose_runs() -> None:
    """Targets are services, on the ports that their commands are given."""
    services: Tree = yaml.safe_load((REPOSITORY / "docker" / "compose.yaml").read_text())["services"]
    exporter, ray = yaml.safe_load((MONITORING / "prometheus.yaml").read_text())["scrape_configs"]
    assert exporter["static_configs"] == [{"targets": [f"exporter:{services['exporter']['command'][-1]}"]}]
    (found,) = ray["dns_sd_configs"]
    nodes = {name for name, service in services.items() if service.get("command", [""])[0] == "ray"}
    assert set(found["names"]) == nodes
    assert all(f"--metrics-export-port={found['port']}" in services[name]["command"] for name in nodes)


def test_alerts_and_dashboards_are_mounted_where_they_are_looked_for() -> None:
    """By Prometheus and by Grafana; the data source's uid is the one that dashboards begin with."""
    services: Tree = yaml.safe_load((REPOSITORY / "docker" / "compose.yaml").read_text())["services"]
    assert "../cluster/monitoring:/etc/prometheus:ro" in services["prometheus"]["volumes"]
    assert "--config.file=/etc/prometheus/prometheus.yaml" in services["prometheus"]["command"]
    provisioning = MONITORING / "grafana" / "provisioning"
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "vaeseg.yaml").read_text())["providers"]
    mounted = f"../cluster/monitoring/grafana/dashboards:{provider['options']['path']}:ro"
    assert mounted in services["grafana"]["volumes"]
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    for path in DASHBOARDS:
        (variable,) = (one for one in dashboard(path)["templating"]["list"] if one["type"] == "datasource")
        assert variable["current"]["value"] == source["uid"]


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_can_be_read(path: Path) -> None:
    """Its uid is its file's; every panel has a unit, a description and the chosen data source; none lies on another."""
    assert dashboard(path)["uid"] == f"vaeseg-{path.stem}"
    asked = panels(path)
    assert len({panel["id"] for panel in dashboard(path)["panels"]}) == len(dashboard(path)["panels"])
    for panel in asked:
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["description"]
        assert panel["datasource"] == {"uid": "${datasource}", "type": "prometheus"}
        assert all(target["datasource"] == panel["datasource"] for target in panel["targets"])
    places = [
        (x, y)
        for place in (panel["gridPos"] for panel in dashboard(path)["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(places) == len(set(places))
    assert max(x for x, _ in places) < 24


def test_every_metric_that_is_asked_for_is_documented() -> None:
    """Those of the database and those of workers; and each of the workers' is what the code declares."""
    asked = {expr for rule in RULES.values() for expr in [rule["expr"]]}
    asked |= {expression for path in DASHBOARDS for _, expression in expressions(path)}
    names = {name for expression in asked for name in metrics_in(expression)}
    ours = {name for name in names if "vaeseg_" in name}
    assert len(ours) > 25
    assert {name for name in ours if name.startswith("ray_")} <= ON_RAY
    documented = set(re.findall(r"`((?:ray_)?vaeseg_[a-z_]+)", DOCUMENT))
    assert ours | ON_RAY <= documented


def test_every_alert_is_in_the_documents_table() -> None:
    """And no other."""
    assert set(re.findall(r"^\| `(Vaeseg\w+)` \|", DOCUMENT, flags=re.MULTILINE)) == set(RULES)


def test_the_rules_for_the_operator_are_the_same_rules() -> None:
    """What cluster/README.md pipes into kubectl is a PrometheusRule that holds them."""
    text = (REPOSITORY / "cluster" / "README.md").read_text()
    (pipe,) = re.findall(r"(\{ printf '%s.*?\}) \| kubectl", text, flags=re.DOTALL)
    done = subprocess.run(["sh", "-c", pipe], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    made = yaml.safe_load(done.stdout)
    assert (made["apiVersion"], made["kind"]) == ("monitoring.coreos.com/v1", "PrometheusRule")
    assert made["spec"] == yaml.safe_load(RULES_FILE.read_text())
