"""What the files for monitoring say: alerts, their tests, and the expressions of dashboards; and who can try them."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).parents[1]
MONITORING = REPOSITORY / "cluster" / "monitoring"
RULES_FILE = MONITORING / "alerts" / "vaeseg.yaml"
TEST_FILES = sorted((MONITORING / "tests").glob("*.yaml"))
DASHBOARDS = sorted((MONITORING / "grafana" / "dashboards").glob("*.json"))

Tree = dict[str, Any]


def rules() -> list[Tree]:
    """Every alert."""
    return [rule for group in yaml.safe_load(RULES_FILE.read_text())["groups"] for rule in group["rules"]]


def dashboard(path: Path) -> Tree:
    read: Tree = json.loads(path.read_text())
    return read


def panels(path: Path) -> list[Tree]:
    """Those of a dashboard that ask for something."""
    return [panel for panel in dashboard(path)["panels"] if panel["type"] != "row"]


def expressions(path: Path) -> Iterator[tuple[str, str]]:
    """Of every panel of a dashboard, its title and what it asks Prometheus, with its variables filled in."""
    for panel in panels(path):
        for target in panel["targets"]:
            yield panel["title"], target["expr"].replace("$archive", ".*").replace("$__rate_interval", "2m")


def metrics_in(expression: str) -> set[str]:
    """Names of metrics, without what a histogram or a counter adds to them."""
    names = re.findall(r"\b(?:ray_)?vaeseg_[a-z_]+|\bray_[a-z_]+", expression)
    return {re.sub(r"_(bucket|count)$", "", name) if "duration_seconds_" in name else name for name in names}


def program(name: str) -> str:
    """Path of `prometheus` or `promtool`; without it the test is skipped."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (apt-get install --no-install-recommends prometheus)")
    return found
