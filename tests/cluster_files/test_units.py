"""The units in `cluster/systemd` call commands that exist, and keep what they promise."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from manifests import CLUSTER, REPOSITORY, check_command

UNITS = sorted(path.name for path in (CLUSTER / "systemd").glob("*.service"))


def unit(name: str) -> str:
    return (CLUSTER / "systemd" / name).read_text()


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


def test_there_is_no_python_beside_them() -> None:
    """It would come first on the path of a program that is started there."""
    assert not [*CLUSTER.rglob("*.py"), *(REPOSITORY / "docker").rglob("*.py")]
