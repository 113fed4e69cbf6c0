"""The built wheel, installed into an empty environment outside the checkout, does the main job."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[2]


def run(*command: str | Path, cwd: Path) -> str:
    """Run without what the checkout's environment would leak; the output, or the error as the failure."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VAESEG", "RAY", "VIRTUAL_ENV"))}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_an_installed_wheel_segments_a_phantom(tmp_path: Path) -> None:
    """pip install of the wheel, then phantom and submit with the model that comes with it."""
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, PROJECT, cwd=PROJECT)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.stat().st_size < 25e6
    run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    pip: list[Any] = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    run(*pip, f"torch=={version('torch').split('+')[0]}", cwd=tmp_path)
    run(*pip, "-c", PROJECT / "constraints.txt", wheel, cwd=tmp_path)

    command = tmp_path / "venv" / "bin" / "vaeseg-batch"
    phantom = ["phantom", "archive", "--patients", "1", "--image-size", "128", "--z-extent-mm", "40"]
    run(command, *phantom, "--slice-spacing-mm", "4", cwd=tmp_path)
    submitted = json.loads(run(command, "submit", "--study-dir", "archive/dicom", "--json", cwd=tmp_path))
    assert submitted["outcomes"]["segmented"] == 1
    findings = json.loads(run(command, "findings", "--format", "json", cwd=tmp_path))
    assert [finding["model"] for finding in findings] == ["phantom-v1"]
    assert (tmp_path / "vaeseg-store" / findings[0]["mask_uri"]).is_file()
