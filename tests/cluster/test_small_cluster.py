"""A real cluster: it runs, demands its token, and ends with all that it started and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from called import vaeseg

import vaeseg.distributed.cluster as cluster_module
from vaeseg.config import PhantomConfig
from vaeseg.distributed.cluster import Cluster, running_cluster, start_cluster
from vaeseg.distributed.cluster_node import running
from vaeseg.errors import ClusterError, UsageError
from vaeseg.phantom.dicom_writer import write_dicom_archive
from vaeseg.process import title_of

pytestmark = pytest.mark.cluster

CALL = "from vaeseg.cli import main; main(prog_name='vaeseg-batch')"
PHANTOM = PhantomConfig(n_patients=2, seed=5, image_size=64, z_extent_mm=40.0, slice_spacing_mm=4.0)


def status_of(address: str, token: str | None) -> int:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    try:
        with urlopen(Request(f"{address}/api/jobs/", headers=headers)) as response:
            return int(response.status)
    except HTTPError as error:
        error.close()
        return error.code


@contextmanager
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process with a title like those of Ray's workers, in a session of its own."""
    command = [sys.executable, "-c", "import sys; sys.stdin.read()", "ray::IDLE"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as process:
        yield process
        process.communicate()


def test_all_nodes_are_alive_and_written_down(cluster: Cluster) -> None:
    """Another process finds what it needs in the directory."""
    assert cluster.states() == {"head": "ALIVE", "worker-1": "ALIVE"}
    assert running_cluster(cluster.directory) == cluster
    shown = vaeseg(cluster.directory, "cluster", "status", "--dir", str(cluster.directory), "--json")
    assert shown.exit_code == 0
    facts = json.loads(shown.stdout)
    assert [node["state"] for node in facts["nodes"]] == ["ALIVE", "ALIVE"]
    assert facts["environment"] == cluster.environment
    assert cluster.token_path.stat().st_mode & 0o777 == 0o600


def test_a_token_is_demanded(cluster: Cluster) -> None:
    """The Jobs API answers those who show it, and on loopback only."""
    token = cluster.token_path.read_text()
    statuses = [status_of(cluster.jobs_address, shown) for shown in (token, "0" * len(token), None)]
    assert statuses == [200, 403, 401]
    assert cluster.jobs_address.startswith("http://127.0.0.1:")


def test_a_second_one_in_the_same_directory_is_refused(cluster: Cluster) -> None:
    """The first goes on."""
    with pytest.raises(UsageError, match="a cluster runs in"):
        start_cluster(cluster.directory)
    assert cluster.head.is_running


@pytest.fixture
def ward(place: Path) -> Path:
    """An archive in the cluster's store."""
    (place / "ward").mkdir(exist_ok=True)
    added = vaeseg(place, "archive", "add", "ward", "--root", str(place / "ward"))
    assert added.exit_code == 0, added.stderr
    return place / "ward"


def doctor(cluster: Cluster, store: Path, address: str, **changes: str) -> tuple[int, dict[str, list[dict[str, Any]]]]:
    """Exit code, and checks by name, of a process: it may join the cluster."""
    environment = {**os.environ, **cluster.environment, "VAESEG_STORE": str(store), "VAESEG_DB": "", **changes}
    command = [sys.executable, "-c", CALL, "doctor", "--address", address, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240, check=False)
    checks: dict[str, list[dict[str, Any]]] = {}
    for check in json.loads(done.stdout)["checks"]:
        checks.setdefault(check["name"], []).append(check)
    return done.returncode, checks


@pytest.mark.parametrize("kind", ["jobs_address", pytest.param("gcs_address", marks=pytest.mark.slow)])
def test_doctor_finds_every_node_well(cluster: Cluster, place: Path, ward: Path, kind: str) -> None:
    """By a job, and from a node: both nodes share the store, the archive, the model and the clock."""
    code, checks = doctor(cluster, place / "store", getattr(cluster, kind))
    assert code == 0, [check for listed in checks.values() for check in listed if check["status"] == "failed"]
    for name in ("node", "store", "versions", "model", "clock", "codecs", "archives", "disk", "gpus"):
        nodes = {check["node"].split()[0] for check in checks[name] if check["node"] is not None}
        assert nodes == {"head", "worker-1"}, name
    assert checks["nodes"][0]["found"] == "2 alive"
    assert checks["token"][0]["status"] == "ok"
    assert list((place / "store").glob(".doctor-*")) == []
    if kind == "jobs_address":
        assert [checks[name][0]["status"] for name in ("head_store", "head_database")] == ["ok", "ok"]
        shown = json.dumps(cluster._asked("/api/jobs/"))
        assert "check_cluster --check-id" in shown
        assert str(place) not in shown


@pytest.mark.parametrize("kind", ["jobs_address", pytest.param("gcs_address", marks=pytest.mark.slow)])
def test_doctor_without_the_token_names_it(cluster: Cluster, place: Path, ward: Path, kind: str) -> None:
    """Nothing else is wrong."""
    code, checks = doctor(
        cluster, place / "store", getattr(cluster, kind), RAY_AUTH_MODE="disabled", RAY_AUTH_TOKEN_PATH="/nowhere"
    )
    failed = [check for listed in checks.values() for check in listed if check["status"] == "failed"]
    assert (code, [check["name"] for check in failed]) == (1, ["cluster"])
    assert "demands its token: set RAY_AUTH_MODE=token" in failed[0]["found"]


def test_doctor_finds_a_head_with_another_store(cluster: Cluster, tmp_path: Path) -> None:
    """Its driver would not find the run."""
    (tmp_path / "store").mkdir()
    code, checks = doctor(cluster, tmp_path / "store", cluster.jobs_address)
    assert (code, checks["head_store"][0]["status"]) == (1, "failed")


def test_a_run_goes_by_the_jobs_api(cluster: Cluster, place: Path, tmp_path: Path) -> None:
    """Its driver is on the head; nobody who may look at jobs sees where the archive lies."""
    write_dicom_archive(tmp_path, PHANTOM)
    environment = {**os.environ, **cluster.environment, "VAESEG_STORE": str(place / "store"), "VAESEG_DB": ""}
    command = [sys.executable, "-c", CALL, "submit", "--study-dir", str(tmp_path / "dicom"), "--json"]
    command += ["--address", cluster.jobs_address]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["outcomes"]["segmented"] == PHANTOM.n_patients
    shown = json.dumps(cluster._asked("/api/jobs/"))
    assert f"vaeseg-{told['run_id']}-a1" in shown
    assert str(tmp_path) not in shown


def test_stopping_ends_every_process_and_no_other(cluster: Cluster) -> None:
    """Also the driver of a job, which is in a session of its own; a stranger with a title like Ray's stays."""
    with stranger() as other:
        pids = running(cluster.owns)
        assert len(pids) > 10
        assert other.pid not in pids
        stopped = vaeseg(cluster.directory, "cluster", "stop", "--dir", str(cluster.directory))
        assert stopped.exit_code == 0
        assert [pid for pid in pids if title_of(pid)] == []
        assert not cluster.directory.exists()
        assert not cluster.temp_dir.exists()
        assert other.poll() is None
    again = vaeseg(cluster.directory, "cluster", "stop", "--dir", str(cluster.directory))
    assert (again.exit_code, again.stderr) == (0, "no cluster was started there\n")


def test_a_start_that_fails_leaves_nothing_but_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log is named, and says what was wrong."""
    with TemporaryDirectory(dir="/tmp") as root:
        monkeypatch.setattr(cluster_module, "TEMP_ROOT", root)
        with pytest.raises(ClusterError, match=r"head ended while it started: .*; see .*head\.log"):
            start_cluster(tmp_path / "c", n_workers=1, object_store_bytes=-1)
        assert not any(Path(root).iterdir())
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["logs"]
