"""An estimate against a run: rates of a first run, the time of a second one with other series."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vaeseg.config import PhantomConfig
from vaeseg.phantom.dicom_writer import write_dicom_archive

KNOWN = [PhantomConfig(n_patients=12, seed=seed, image_size=256, z_extent_mm=90.0) for seed in (21, 23)]
TOLD = PhantomConfig(n_patients=20, seed=22, image_size=256, z_extent_mm=150.0)
"""More series and more slices; all with slices 0.7 to 5 mm apart, so that series differ in length."""
TOLERANCE = 0.2


def vaeseg(store: Path, *arguments: object) -> Any:
    """What a command prints as JSON, from a process of its own, as a user would start it."""
    command = [sys.executable, "-c", "from vaeseg.cli import main; main()", *map(str, arguments), "--json"]
    environment = os.environ | {"VAESEG_STORE": str(store), "VAESEG_DB": "", "RAY_ADDRESS": "", "VAESEG_ADDRESS": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=1200)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_a_night_takes_what_was_estimated(tmp_path: Path) -> None:
    """A run takes what is told by the runs before and after it, within a fifth.

    Rates are those of the machine with all else that it does: by one on either side, a load that grows or falls is the
    same for both. The run itself is in another store, and tells nothing.
    """
    archives = [tmp_path / name for name in ("before", "told", "after")]
    for archive, config in zip(archives, (KNOWN[0], TOLD, KNOWN[1]), strict=True):
        write_dicom_archive(archive, config)
    stores = [tmp_path / "known", tmp_path / "other", tmp_path / "known"]
    runs = [
        vaeseg(store, "submit", "--study-dir", archive / "dicom")
        for store, archive in zip(stores, archives, strict=True)
    ]
    n_slices = sum(path.is_file() for path in (archives[1] / "dicom").rglob("*")) / TOLD.n_patients
    told = vaeseg(stores[0], "estimate", "--series", TOLD.n_patients, "--slices", round(n_slices))
    sys.stdout.write(json.dumps({"told": told, "took": [run["seconds"] for run in runs]}) + "\n")
    assert told["rates"]["source"].startswith("24 series of 2 runs")
    assert told["seconds"] == pytest.approx(runs[1]["seconds"], rel=TOLERANCE)
