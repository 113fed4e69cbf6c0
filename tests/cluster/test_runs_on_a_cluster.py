"""Runs submitted to a real cluster of several nodes, which lose a node, gain one, and lose their head."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from vaeseg.config import PhantomConfig, RunConfig
from vaeseg.db.findings import FindingFilter, query_findings
from vaeseg.db.session import Database, open_database, sqlite_url
from vaeseg.db.summaries import RunSummary, run_summary
from vaeseg.distributed.cluster import Cluster, running_cluster, start_cluster
from vaeseg.distributed.cluster_node import Node, running
from vaeseg.distributed.submit import Submission, submit
from vaeseg.distributed.verify import verify
from vaeseg.io.store import Store
from vaeseg.models.files import resolve_model
from vaeseg.phantom.dicom_writer import write_dicom_archive
from vaeseg.process import title_of

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

N_SERIES = 44
PHANTOM = PhantomConfig(n_patients=N_SERIES, seed=5, image_size=64, z_extent_mm=40.0, slice_spacing_mm=4.0)
PATIENCE_SECONDS = 240.0
CALL = "from vaeseg.cli import main; main(prog_name='vaeseg-batch')"
OF_THE_RUN = {"run_id", "created_at", "read_seconds", "segment_seconds", "measure_seconds", "superseded_at"}
"""Columns of findings that differ from run to run."""
OF_THE_STORE = {"subject_key", "archive"}
"""And from store to store, each with its own secret and its own name for an archive."""


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("archive")
    write_dicom_archive(root, PHANTOM)
    return root / "dicom"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """What the head node's VAESEG_STORE names."""
    return Store(tmp_path_factory.mktemp("shared") / "store")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, store: Store) -> Iterator[Cluster]:
    """A head and two workers of one CPU each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VAESEG_STORE", str(store.root))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.delenv("VAESEG_DB", raising=False)
        started = start_cluster(tmp_path_factory.mktemp("cluster") / "c", n_workers=2, cpus_per_node=1)
        yield started
        started.stop()


@pytest.fixture(scope="module")
def database(store: Store) -> Iterator[Database]:
    store.root.mkdir(parents=True, exist_ok=True)
    with closing(open_database(sqlite_url(store.database_path))) as opened:
        yield opened


def called(cluster: Cluster, store: Store, *arguments: object, **changes: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **cluster.environment, "VAESEG_STORE": str(store.root), **changes}
    environment.pop("VAESEG_DB", None)
    command = [sys.executable, "-c", CALL, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=PATIENCE_SECONDS)


def submitted(cluster: Cluster, store: Store, archive: Path, *options: str) -> str:
    """Id of a run that nobody waits for; another output type than before makes it do everything again."""
    where = ("--address", cluster.jobs_address, "--no-wait", "--json")
    done = called(cluster, store, "submit", "--study-dir", archive, *options, *where)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["status"], told["outcomes"], told["files"]) == ("submitted", None, None)
    return str(told["run_id"])


def awaited(database: Database, run_id: str, is_so: Callable[[RunSummary], bool]) -> RunSummary:
    until = time.monotonic() + PATIENCE_SECONDS
    while not is_so(summary := run_summary(database, run_id)):
        assert time.monotonic() < until, summary
        time.sleep(0.2)
    return summary


def in_the_middle(summary: RunSummary) -> bool:
    """Something is committed, and something is left to do."""
    return summary.status == "running" and sum(summary.outcomes.values()) > 0


def has_model(node: Node) -> bool:
    return any("Segment" in title_of(pid) for pid in running(node.owns))


def measured(database: Database, run_id: str | None = None) -> dict[str, dict[str, Any]]:
    """What does not depend on the run, by series; of the current findings."""
    rows = [asdict(row) for row in query_findings(database, FindingFilter(run_id=run_id))]
    return {
        row["series_instance_uid"]: {k: v for k, v in row.items() if k not in OF_THE_RUN | OF_THE_STORE} for row in rows
    }


@pytest.fixture(scope="module")
def alone(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The findings of the same archive by a Ray of this process, the model in one thread as in the cluster."""
    root = tmp_path_factory.mktemp("alone") / "store"
    config = RunConfig(model_path=str(resolve_model("phantom-v1")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        report = submit(
            Submission(study_dir=archive, store_root=root, database_url=None, model="phantom-v1", config=config)
        )
    assert report.outcomes["segmented"] == N_SERIES
    with closing(open_database(sqlite_url(root / "results.db"))) as opened:
        return measured(opened)


def test_a_run_without_the_token_is_refused(cluster: Cluster, store: Store, archive: Path, database: Database) -> None:
    """In a line that says what is missing; nothing is written down."""
    where = ("--study-dir", archive, "--address", cluster.jobs_address)
    done = called(cluster, store, "submit", *where, RAY_AUTH_MODE="disabled", RAY_AUTH_TOKEN_PATH="/nowhere")
    assert (done.returncode, done.stdout) == (1, "")
    assert "demands its token: set RAY_AUTH_MODE=token" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not store.database_path.is_file() or not query_findings(database)


def test_a_run_on_a_cluster_finds_what_one_machine_finds(
    cluster: Cluster, store: Store, archive: Path, database: Database, alone: dict[str, dict[str, Any]]
) -> None:
    """Value for value, mask digests among them; a node that joins in the middle gets work.

    What everybody may see of the job is the run's id, and no path.
    """
    run_id = submitted(cluster, store, archive)
    awaited(database, run_id, lambda summary: summary.status == "running")
    grown = cluster.add_worker()
    joined = grown.nodes[-1]
    worked = False
    while run_summary(database, run_id).status == "running":
        worked = worked or any(title_of(pid).startswith("ray::Map") for pid in running(joined.owns))
        time.sleep(0.1)
    assert run_summary(database, run_id).status == "finished"
    assert worked
    shown = json.dumps(cluster._asked("/api/jobs/"))
    assert f"vaeseg-{run_id}-a1" in shown
    assert str(archive) not in shown
    assert str(store.root) not in shown
    assert measured(database, run_id) == alone
    assert list(verify(store, database)) == []


def test_a_node_that_dies_costs_nothing(
    cluster: Cluster, store: Store, archive: Path, database: Database, alone: dict[str, dict[str, Any]]
) -> None:
    """Its processes are killed in the middle of a run, the model among them with the series that it has.

    Nothing is lost, nothing doubled, and the masks are the same.
    """
    run_id = submitted(cluster, store, archive, "--output-type", "nifti,png", "--gpu-actors", "2:2")
    awaited(database, run_id, in_the_middle)
    now = running_cluster(cluster.directory)
    now.kill_node(next(node.name for node in now.nodes[1:] if has_model(node)))
    ended = awaited(database, run_id, lambda summary: summary.status not in ("running", "submitted"))
    assert (ended.status, ended.outcomes["segmented"], ended.pending) == ("finished", N_SERIES, 0)
    masks = {uid: row["mask_sha256"] for uid, row in measured(database, run_id).items()}
    assert masks == {uid: row["mask_sha256"] for uid, row in alone.items()}
    assert list(verify(store, database)) == []


def test_a_run_whose_cluster_dies_goes_on_elsewhere(
    cluster: Cluster,
    store: Store,
    archive: Path,
    database: Database,
    alone: dict[str, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The head is killed: the run is lost, its log is out of reach, and `resume` on another cluster finishes it."""
    run_id = submitted(cluster, store, archive, "--label-dir", str(archive.parent / "labels"))
    done_before = sum(awaited(database, run_id, in_the_middle).outcomes.values())
    cluster.kill_node("head")
    awaited(database, run_id, lambda summary: summary.status == "lost")
    unread = called(cluster, store, "logs", run_id)
    assert (unread.returncode, "cannot be reached" in unread.stderr) == (1, True)

    monkeypatch.setenv("VAESEG_STORE", str(store.root))
    other = start_cluster(tmp_path / "c", n_workers=1, cpus_per_node=1)
    try:
        resumed = called(other, store, "resume", run_id, "--address", other.jobs_address, "--json")
        said = called(other, store, "logs", run_id).stdout
    finally:
        other.stop()
    assert resumed.returncode == 0, resumed.stderr
    outcomes = json.loads(resumed.stdout)["outcomes"]
    assert outcomes["segmented"] + outcomes["already_done"] == N_SERIES
    assert outcomes["already_done"] >= done_before
    assert f"run {run_id} is done" in said
    masks = {uid: row["mask_sha256"] for uid, row in measured(database, run_id).items()}
    assert masks == {uid: row["mask_sha256"] for uid, row in alone.items()}
