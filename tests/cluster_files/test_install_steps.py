"""The steps of `docker/Dockerfile`, run without an engine."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
DOCKER = REPOSITORY / "docker"
SECRETS = ("owner-password", "writer-password", "owner-url", "writer-url", "ray-token", "grafana-password")


def run(*command: str | Path, **environment: str) -> str:
    """What a command prints."""
    done = subprocess.run(
        [str(part) for part in command], env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_images_install_the_torch_of_the_makefile() -> None:
    """One exact version everywhere, and the Python of the images is one that the package allows."""
    (wanted,) = re.findall(r"^TORCH \?= (.*)$", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    dockerfile = (DOCKER / "Dockerfile").read_text()
    assert set(re.findall(r"^ARG TORCH=(.*)$", dockerfile, re.MULTILINE)) == {wanted}
    assert f"${{TORCH:-{wanted}}}" in (DOCKER / "install.sh").read_text()
    assert re.search(r"^ARG PYTHON_IMAGE=python:3\.1[123]\.\d+-slim-\w+$", dockerfile, re.MULTILINE)


def test_the_images_hold_what_the_wheel_is_built_of_and_nothing_else() -> None:
    """Every file that a step copies is let through by `.dockerignore`; no data and no secret is."""
    allowed = {line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    lines = re.findall(r"^COPY (?!--from)(.*)$", (DOCKER / "Dockerfile").read_text(), re.MULTILINE)
    copied = {source for line in lines for source in line.split()[:-1]}
    assert copied == allowed
    assert all((REPOSITORY / source).exists() for source in copied)


def test_an_image_runs_as_nobody_in_particular() -> None:
    """Both targets come from the stage that sets the user, and no later one becomes root again."""
    dockerfile = (DOCKER / "Dockerfile").read_text()
    assert re.findall(r"^USER (.*)$", dockerfile, re.MULTILINE) == ["10001:10001"]
    assert re.findall(r"^FROM (\S+) AS [cg]pu$", dockerfile, re.MULTILINE) == ["runtime", "runtime"]
    assert "HEALTHCHECK" in dockerfile


def test_secrets_are_made_once_and_kept(tmp_path: Path) -> None:
    """In a directory that others cannot enter; the URLs hold the passwords of their roles."""
    directory = tmp_path / "secrets"
    run("sh", DOCKER / "make-secrets.sh", directory)
    made = {path.name: path.read_text() for path in directory.iterdir()}
    run("sh", DOCKER / "make-secrets.sh", directory)
    assert {path.name: path.read_text() for path in directory.iterdir()} == made
    assert set(made) == set(SECRETS)
    assert directory.stat().st_mode & 0o777 == 0o700
    assert made["writer-password"].strip() in made["writer-url"]
    assert made["owner-password"].strip() in made["owner-url"]
    assert len(set(made.values())) == len(SECRETS)


@pytest.mark.slow
def test_the_install_steps_work_in_an_empty_environment(tmp_path: Path) -> None:
    """The wheel is built, goes into a new environment, and what came is what the constraints say; minutes."""
    builder, installed = tmp_path / "builder", tmp_path / "vaeseg"
    run(sys.executable, "-m", "venv", builder)
    path = f"{builder / 'bin'}:{os.environ['PATH']}"
    run("sh", DOCKER / "build-wheel.sh", REPOSITORY, tmp_path / "wheel", PATH=path)
    (wheel,) = (tmp_path / "wheel").iterdir()
    constraints = REPOSITORY / "constraints.txt"
    run("sh", DOCKER / "install.sh", installed, wheel, constraints, "any", PYTHONPATH="")
    frozen = set(run(installed / "bin" / "pip", "freeze", PYTHONPATH="").lower().splitlines())
    pinned = set(constraints.read_text().lower().splitlines())
    unpinned = {line for line in frozen - pinned if not line.startswith(("vaeseg @", "torch==", "nvidia-", "triton=="))}
    assert {line.split("==")[0] for line in unpinned} <= {"setuptools"}
    job = next(installed.glob("lib/python*/site-packages/vaeseg/_jobs/segment_archive.py"))
    run(installed / "bin" / "python", "-P", job, "--help", PYTHONPATH="")
    wrong = subprocess.run(
        ["sh", DOCKER / "install.sh", installed, wheel, constraints, "tpu"], capture_output=True, text=True, check=False
    )
    assert (wrong.returncode, "is a build for" in wrong.stderr) == (1, True)
