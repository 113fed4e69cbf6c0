"""The units and manifests in `cluster/` call commands that exist, and keep what they promise."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from vaeseg.cli import main

CLUSTER = Path(__file__).parents[2] / "cluster"
UNITS = sorted(path.name for path in (CLUSTER / "systemd").glob("*.service"))


def unit(name: str) -> str:
    return (CLUSTER / "systemd" / name).read_text()


def check_command(arguments: list[str]) -> None:
    """That `vaeseg-batch` takes them."""
    command = main.get_command(click.Context(main), arguments[0])
    assert command is not None
    command.make_context(arguments[0], arguments[1:])


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_calls_a_command_that_exists(name: str) -> None:
    """With options that it has."""
    (line,) = re.findall(r"^ExecStart=/opt/vaeseg/bin/vaeseg-batch (.*)$", unit(name), re.MULTILINE)
    check_command(line.replace("%i", "ward").split())


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_may_write_to_its_store_alone_and_stops_in_order(name: str) -> None:
    """As an account of its own; only the main process is told to stop."""
    lines = unit(name).splitlines()
    for wanted in ("User=vaeseg", "ProtectSystem=strict", "NoNewPrivileges=yes", "PrivateTmp=yes", "KillMode=mixed"):
        assert wanted in lines
    assert ("SuccessExitStatus=3" in lines) == ("Type=oneshot" in lines)
    assert ("OOMPolicy=continue" in lines) == ("scheduler" in name)


def test_systemd_understands_the_units(tmp_path: Path) -> None:
    """`systemd-analyze verify`, where it is installed; with a program that is there."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    for path in (CLUSTER / "systemd").iterdir():
        text = path.read_text().replace("/opt/vaeseg/bin/vaeseg-batch", "/bin/true")
        (tmp_path / path.name.replace("@", "@ward")).write_text(text)
    files = [str(path) for path in tmp_path.iterdir()]
    done = subprocess.run(["systemd-analyze", "verify", *files], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_cron_job_has_few_rights() -> None:
    """It does not overlap, is not root, writes to the store and to /tmp alone, and reads secrets from a secret."""
    job: dict[str, Any] = yaml.safe_load((CLUSTER / "kubernetes" / "nightly-scan.yaml").read_text())
    assert (job["kind"], job["spec"]["concurrencyPolicy"]) == ("CronJob", "Forbid")
    pod = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert (pod["securityContext"]["runAsNonRoot"], pod["automountServiceAccountToken"]) == (True, False)
    (container,) = pod["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    mounts = {mount["mountPath"]: mount.get("readOnly", False) for mount in container["volumeMounts"]}
    assert mounts == {"/archive": True, "/store": False, "/tmp": False, "/dev/shm": False}
    secrets = {variable["name"] for variable in container["env"] if "valueFrom" in variable}
    assert secrets == {"VAESEG_DB", "VAESEG_SUBJECT_KEY"}
    check_command(container["command"][1:])


def test_there_is_no_python_beside_them() -> None:
    """It would come first on the path of a program that is started there."""
    assert not list(CLUSTER.rglob("*.py"))
