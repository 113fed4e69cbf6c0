"""The same commands on a Ray cluster that runs already."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from vaeseg.db.session import open_database, sqlite_url
from vaeseg.db.summaries import recent_runs

CALL = "from vaeseg.cli import main; main()"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head with processes of its own."""
    started = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 3, "include_dashboard": False, "object_store_memory": 10**8}
    )
    yield started
    started.shutdown()


def called(*arguments: object, address: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", CALL, *map(str, arguments), "--address", address]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_a_scan_on_a_running_cluster(cluster: Cluster, archive: Path, model_path: Path, tmp_path: Path) -> None:
    """All series are segmented by its workers; the cluster is there afterwards for the next."""
    options = ("--model", model_path, "--store", tmp_path / "store", "--json")
    done = called("submit", "--study-dir", archive / "dicom", *options, address=cluster.address)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["outcomes"]["segmented"] == 3
    assert all(node.any_processes_alive() for node in cluster.list_all_nodes())


def test_an_address_where_nothing_is(archive: Path, model_path: Path, tmp_path: Path) -> None:
    """One line, and no run is written down."""
    options = ("--model", model_path, "--store", tmp_path / "store")
    done = called("submit", "--study-dir", archive / "dicom", *options, address="127.0.0.1:1")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "vaeseg-batch: the Ray cluster 127.0.0.1:1 cannot be reached: Connection refused\n"
    with closing(open_database(sqlite_url(tmp_path / "store" / "results.db"))) as database:
        assert recent_runs(database) == []
