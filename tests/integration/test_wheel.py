"""The built wheel, outside the checkout, does the main job."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).parents[2]
COMMAND = "from vaeseg.cli import main; main()"
LEAKING = ("PYTHON", "VAESEG", "RAY", "VIRTUAL_ENV")
"""How the variables begin by which the checkout's environment would reach the wheel."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, PROJECT, cwd=PROJECT)
    (built,) = out.glob("*.whl")
    return built


def run(*command: str | Path, cwd: Path, **variables: str) -> str:
    """Run without what the checkout's environment would leak; the output, or the error as the failure."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(LEAKING)} | variables
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def segments_a_phantom(command: list[str | Path], directory: Path, **variables: str) -> None:
    """Phantom, submit with the model that comes with vaeseg, findings."""
    phantom = ["phantom", "archive", "--patients", "1", "--image-size", "128", "--z-extent-mm", "40"]
    run(*command, *phantom, "--slice-spacing-mm", "4", cwd=directory, **variables)
    submitted = run(*command, "submit", "--study-dir", "archive/dicom", "--json", cwd=directory, **variables)
    assert json.loads(submitted)["outcomes"]["segmented"] == 1
    findings = json.loads(run(*command, "findings", "--format", "json", cwd=directory, **variables))
    assert [finding["model"] for finding in findings] == ["phantom-v1"]
    assert (directory / "vaeseg-store" / findings[0]["mask_uri"]).is_file()


def test_what_is_in_the_wheel_segments_a_phantom(wheel: Path, tmp_path: Path) -> None:
    """Model, migrations and jobs are in it; what it needs is what these tests were installed with."""
    assert wheel.stat().st_size < 25e6
    unpacked = tmp_path / "unpacked"
    run(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", unpacked, wheel, cwd=tmp_path)
    where = run(sys.executable, "-c", "import vaeseg; print(vaeseg.__file__)", cwd=tmp_path, PYTHONPATH=str(unpacked))
    assert Path(where.strip()).is_relative_to(unpacked)
    segments_a_phantom([sys.executable, "-c", COMMAND], tmp_path, PYTHONPATH=str(unpacked))


@pytest.mark.slow
def test_an_installed_wheel_segments_a_phantom(wheel: Path, tmp_path: Path) -> None:
    """Installed with what it asks for into an empty environment."""
    run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    pip: list[Any] = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    run(*pip, f"torch=={version('torch').split('+')[0]}", cwd=tmp_path)
    run(*pip, "-c", PROJECT / "constraints.txt", wheel, cwd=tmp_path)
    segments_a_phantom([tmp_path / "venv" / "bin" / "vaeseg-batch"], tmp_path)
