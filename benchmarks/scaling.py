"""How a run grows with worker nodes, and what share of it the driver takes: the tables of docs/scaling.md.

    python benchmarks/scaling.py --out DIR [--series 40] [--idle-series 500]

Two measurements, each on a Ray cluster of its own whose head node has no CPU for tasks:

- a phantom archive segmented by one worker node and by two, each held to one core of its own, the model in one thread;
- the same driver with workers that do nothing: how many series a second it can plan, hand out, collect and commit.

Times are from the first commit to the last, so that starting counts nowhere. Prints a JSON line each.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
from ray.cluster_utils import Cluster
from sqlalchemy import func, select

from vaeseg.config import PhantomConfig, RunConfig
from vaeseg.db.session import open_database, sqlite_url
from vaeseg.db.summaries import Progress
from vaeseg.db.tables import FindingTable
from vaeseg.distributed import batch, committer
from vaeseg.distributed.rows import Failure, SeriesRow, failed_row
from vaeseg.distributed.stage import StageConfig
from vaeseg.distributed.submit import Submission, submit
from vaeseg.models.files import resolve_model
from vaeseg.phantom.dicom_writer import write_dicom_archive
from vaeseg.telemetry import Write

MODEL = "phantom-v1"
PHANTOMS = {
    "real": PhantomConfig(n_patients=1, seed=5, image_size=256, z_extent_mm=160.0, slice_spacing_mm=2.0),
    "idle": PhantomConfig(n_patients=1, seed=5, image_size=64, z_extent_mm=8.0, slice_spacing_mm=4.0),
}
"""Of 80 slices, and of 2 where nobody reads them."""
STAGES = ("read", "segment", "measure")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--series", type=int, default=40)
    parser.add_argument("--idle-series", type=int, default=500)
    parser.add_argument("--drive", nargs=2, metavar=("WORKERS", "KIND"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.drive:
        workers, kind = int(arguments.drive[0]), arguments.drive[1]
        print(
            json.dumps({"workers": workers, "kind": kind, **_measured(arguments.out / kind, workers, kind == "idle")})
        )
        return
    for kind, n_series in (("real", arguments.series), ("idle", arguments.idle_series)):
        _write_archive(arguments.out / kind, replace(PHANTOMS[kind], n_patients=n_series))
        for workers in (1, 2):
            command = [sys.executable, __file__, "--out", arguments.out, "--drive", str(workers), kind]
            subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def _write_archive(root: Path, phantom: PhantomConfig) -> None:
    shutil.rmtree(root, ignore_errors=True)
    write_dicom_archive(root, phantom, workers=os.cpu_count() or 1)


def _measured(root: Path, n_workers: int, is_idle: bool) -> dict[str, Any]:
    """One run on a new cluster and a new store."""
    if is_idle:
        batch.read = _idle  # type: ignore[assignment]
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for core in range(n_workers):
        _hold_to_core(cluster.add_node(num_cpus=4).all_processes, core % (os.cpu_count() or 1))
    store = root / f"store-{n_workers}"
    shutil.rmtree(store, ignore_errors=True)
    clock = _Clock()
    try:
        submit(_submission(root, store, cluster.address), clock)
    finally:
        cluster.shutdown()
    return {**clock.figures(), **_seconds_by_stage(store)}


def _idle(row: SeriesRow, config: StageConfig, write: Write) -> SeriesRow:
    """In place of reading: nothing, after which the other stages have nothing to do either."""
    return failed_row(row, Failure(reason="idle", detail=""))


def _hold_to_core(processes: Mapping[str, Any], core: int) -> None:
    """A node's processes, and all that they start from now on."""
    for started in processes.values():
        for process in started:
            leader = psutil.Process(process.process.pid)
            for member in (leader, *leader.children(recursive=True)):
                member.cpu_affinity([core])


def _submission(root: Path, store: Path, address: str) -> Submission:
    config = RunConfig(model_path=str(resolve_model(MODEL)), commit_every=5)
    return Submission(
        study_dir=root / "dicom", store_root=store, database_url=None, model=MODEL, config=config, address=address
    )


class _Clock:
    """Time, the driver's own processor time and the time of its commits, from its first commit to its last."""

    def __init__(self) -> None:
        self._seen: list[tuple[float, float, float, int]] = []
        self._committing = 0.0
        committer.commit_group = self._timed(committer.commit_group)

    def _timed(self, commit: Callable[..., int]) -> Callable[..., int]:
        def timed(*arguments: Any) -> int:
            started = time.perf_counter()
            try:
                return commit(*arguments)
            finally:
                self._committing += time.perf_counter() - started

        return timed

    def __call__(self, progress: Progress) -> None:
        self._seen.append((time.perf_counter(), time.process_time(), self._committing, progress.series_done))

    def figures(self) -> dict[str, float]:
        (start, start_cpu, start_commit, begun), (end, end_cpu, end_commit, done) = self._seen[0], self._seen[-1]
        n_series, seconds = done - begun, end - start
        return {
            "series": n_series,
            "series_per_second": round(n_series / seconds, 3),
            "driver_cpu_share": round((end_cpu - start_cpu) / seconds, 3),
            "driver_cpu_ms_per_series": round(1000 * (end_cpu - start_cpu) / n_series, 2),
            "commit_ms_per_series": round(1000 * (end_commit - start_commit) / n_series, 2),
        }


def _seconds_by_stage(store: Path) -> dict[str, float]:
    """Mean of each stage over the series; nothing where nothing was measured."""
    columns: Mapping[str, Any] = {stage: getattr(FindingTable, f"{stage}_seconds") for stage in STAGES}
    mean: Callable[[Any], Any] = func.avg
    with closing(open_database(sqlite_url(store / "results.db"))) as database, database.read() as connection:
        row = connection.execute(select(*(mean(column) for column in columns.values()))).one()
    return {f"{stage}_seconds": round(float(value), 3) for stage, value in zip(columns, row, strict=True) if value}


if __name__ == "__main__":
    main()
