"""docs/monitoring.md names what the exporter serves."""

from __future__ import annotations

import re
from pathlib import Path

from vaeseg.telemetry import LEDGER_METRICS

MONITORING = Path(__file__).parents[2] / "docs" / "monitoring.md"


def test_every_metric_of_the_exporter_is_documented_with_its_labels() -> None:
    """The table of its section has exactly the metrics that there are, each once."""
    section = MONITORING.read_text(encoding="utf-8").split("## Exporter\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(vaeseg_\w+)` \|([^|]*)\|", section, flags=re.MULTILINE)
    documented = [(name, tuple(re.findall(r"`(\w+)`", labels))) for name, labels in rows]
    assert sorted(documented) == sorted((metric.name, metric.labels) for metric in LEDGER_METRICS)
