"""A cluster across a network that can be cut, what it works on, and the proof that a run came out as if nobody had."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from namespaces import Network, reason_against
from networked import NetworkedCluster, NetworkedPostgres
from random_model import write_random_model

from vaeseg.config import PhantomConfig, RunConfig
from vaeseg.db.findings import FindingFilter, query_findings
from vaeseg.db.session import Database, open_database, sqlite_url
from vaeseg.db.summaries import RunSummary, recent_runs, run_summary
from vaeseg.distributed.submit import Submission, submit
from vaeseg.distributed.verify import verify
from vaeseg.io.store import create_store
from vaeseg.models.checkpoint import load_checkpoint, save_checkpoint
from vaeseg.models.provenance import Provenance
from vaeseg.phantom.dicom_writer import write_dicom_archive

WHY_NOT = reason_against()
NEEDS_A_NETWORK = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT or "there can be a network")
N_SERIES = 24
PHANTOM = PhantomConfig(n_patients=N_SERIES, seed=5, image_size=64, z_extent_mm=40.0, slice_spacing_mm=4.0)
PATIENCE_SECONDS = 240.0
CALL = "from vaeseg.cli import main; main(prog_name='vaeseg-batch')"
QUICK_HEALTH_CHECKS = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "3",
}
"""A node that is silent for about 12 seconds is dead; by default 65."""
OF_THE_RUN = {
    *("run_id", "created_at", "read_seconds", "segment_seconds", "measure_seconds", "superseded_at"),
    *("subject_key", "model", "mask_uri", "archive"),
}
"""Columns of findings that differ from run to run, store to store or name of the model to name."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A cluster across a network, and what it works on."""

    network: Network
    cluster: NetworkedCluster
    postgres: NetworkedPostgres
    database: Database
    """As this process sees it, which no cut touches."""
    store: Path
    archive: Path
    model: Path
    alone: Mapping[str, Mapping[str, Any]]
    """Findings of one machine that nobody disturbed, by series."""

    def environment(self, **changes: str) -> dict[str, str]:
        """Of a command on the host `client`."""
        ours = {"VAESEG_STORE": str(self.store), "VAESEG_DB": self.postgres.url}
        return {**os.environ, **ours, **self.cluster.client_environment, **changes}

    def begun(self, *arguments: object, **changes: str) -> subprocess.Popen[str]:
        """A command on the host `client` that has begun."""
        command = [sys.executable, "-c", CALL, *map(str, arguments)]
        pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with self.network.inside("client"):
            return subprocess.Popen(command, env=self.environment(**changes), **pipes)

    def called(self, *arguments: object, **changes: str) -> subprocess.CompletedProcess[str]:
        """A command on the host `client` that has ended."""
        return result_of(self.begun(*arguments, **changes))

    def submission(self) -> tuple[object, ...]:
        """A command that does everything again: its model has the same weights, and another digest."""
        checkpoint = load_checkpoint(self.model)
        copy = self.store.parent / f"model-{len(recent_runs(self.database, 100))}.safetensors"
        save_checkpoint(copy, checkpoint.network(), checkpoint.preprocessing, provenance(copy.stem))
        where = ("--address", self.cluster.jobs_address, "--json")
        return ("submit", "--study-dir", self.archive, "--model", copy, *where)

    def submitted(self) -> str:
        """Id of a run that nobody waits for."""
        done = self.called(*self.submission(), "--no-wait")
        assert done.returncode == 0, done.stderr
        return str(json.loads(done.stdout)["run_id"])

    def awaited(self, run_id: str, is_so: Callable[[RunSummary], bool]) -> RunSummary:
        """The run once that is so."""
        return awaited(lambda: run_summary(self.database, run_id), is_so)

    def check(self, run_id: str) -> None:
        """Everything is done, once, agrees, and has the values that one machine finds."""
        summary = self.awaited(run_id, has_ended)
        assert (summary.status, summary.outcomes["segmented"], summary.pending) == ("finished", N_SERIES, 0)
        rows = query_findings(self.database, FindingFilter(run_id=run_id))
        assert len(rows) == N_SERIES
        assert measured(self.database, run_id) == self.alone
        assert list(verify(create_store(self.store), self.database)) == []


def provenance(name: str) -> Provenance:
    return Provenance(data_digest=name.encode().hex().ljust(64, "0"), split_digest="0" * 64)


def result_of(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    """A command once it has ended; one that takes too long hangs."""
    try:
        shown, said = process.communicate(timeout=PATIENCE_SECONDS)
    finally:
        process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, shown, said)


def awaited(look: Callable[[], Any], is_so: Callable[[Any], bool]) -> Any:
    until = time.monotonic() + PATIENCE_SECONDS
    while not is_so(seen := look()):
        assert time.monotonic() < until, seen
        time.sleep(0.2)
    return seen


def has_ended(summary: RunSummary) -> bool:
    return summary.status not in ("running", "submitted", "lost")


def in_the_middle(summary: RunSummary) -> bool:
    """Something is committed, and something is left to do."""
    return summary.status == "running" and sum(summary.outcomes.values()) > 0


def measured(database: Database, run_id: str | None = None) -> dict[str, dict[str, Any]]:
    """What depends on the images and the weights alone, by series."""
    rows = [asdict(row) for row in query_findings(database, FindingFilter(run_id=run_id))]
    return {row["series_instance_uid"]: {k: v for k, v in row.items() if k not in OF_THE_RUN} for row in rows}


@contextmanager
def laid(settings: Mapping[str, str]) -> Iterator[Place]:
    """A head and two workers, a client, and a database, each a host of one network.

    Args:
        settings: variables of every node of Ray.
    """
    # not below pytest's own directory, which the account of the PostgreSQL may not enter
    with TemporaryDirectory(prefix="vaeseg-partitions-") as made:
        directory = Path(made)
        directory.chmod(0o755)
        write_dicom_archive(directory / "archive", PHANTOM)
        archive = directory / "archive" / "dicom"
        model = write_random_model(directory / "random.safetensors", PHANTOM)
        alone = undisturbed(archive, model, directory / "alone")
        network = Network("head", "worker-1", "worker-2", "client", "db")
        try:
            yield from _place(network, directory, settings, archive=archive, model=model, alone=alone)
        finally:
            network.remove()


def _place(network: Network, directory: Path, settings: Mapping[str, str], **known: Any) -> Iterator[Place]:
    store = directory / "store"
    postgres = NetworkedPostgres(network, "db", directory / "postgres")
    of_the_head = {"VAESEG_STORE": str(store), "VAESEG_DB": postgres.url}
    cluster = NetworkedCluster(network, "client", directory / "cluster", settings, of_the_head)
    try:
        cluster.start("head", "worker-1", "worker-2")
        with closing(open_database(postgres.local_url)) as database:
            yield Place(network=network, cluster=cluster, postgres=postgres, database=database, store=store, **known)
    finally:
        cluster.stop()
        postgres.stop()


def undisturbed(archive: Path, model: Path, store: Path) -> dict[str, dict[str, Any]]:
    """The findings of an archive by a Ray of this process."""
    config = RunConfig(model_path=str(model))
    report = submit(Submission(study_dir=archive, store_root=store, database_url=None, model=model.stem, config=config))
    assert report.outcomes["segmented"] == N_SERIES
    with closing(open_database(sqlite_url(store / "results.db"))) as opened:
        return measured(opened)
