"""A run from its row in the database to its end: scan, plan, segment, commit.

`jobs/segment_archive.py` and `vaeseg-batch submit` both execute runs through here.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vaeseg.config import RunConfig
from vaeseg.db.archives import record_scan
from vaeseg.db.runs import EndStatus, finish_run, run_task
from vaeseg.db.session import Database
from vaeseg.db.work import PlannedWork, WorkItem, mask_folder, plan_work, run_key
from vaeseg.distributed.batch import segment_rows
from vaeseg.distributed.committer import Committer
from vaeseg.distributed.indexing import index_rows, scan_for
from vaeseg.distributed.lifecycle import (
    Interruption,
    RunInterruptedError,
    consume_in_thread,
    heartbeats,
    interruptible,
)
from vaeseg.distributed.local import start_local_ray
from vaeseg.distributed.report import ProgressCallback, RunReport, no_progress
from vaeseg.distributed.rows import SeriesRow, failure_of, outcome_of, planned_row
from vaeseg.distributed.selection import skip_by_rule
from vaeseg.distributed.stages import StageConfig
from vaeseg.errors import CheckpointError, StoreError, VaesegError
from vaeseg.io.archive import ArchiveScan
from vaeseg.io.dicom import SubjectKeyer
from vaeseg.io.labels import find_labels
from vaeseg.io.manifest import SeriesManifest
from vaeseg.io.secret import subject_secret
from vaeseg.io.store import Store
from vaeseg.models.checkpoint import load_checkpoint
from vaeseg.records import SeriesOutcome
from vaeseg.telemetry import FILES_REFUSED

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Run:
    """What the steps of one run share."""

    run_id: str
    database: Database
    store: Store
    config: RunConfig
    interruption: Interruption
    on_progress: ProgressCallback


def execute_run(
    database: Database, store: Store, run_id: str, on_progress: ProgressCallback = no_progress
) -> RunReport:
    """Do what a run was started to do, and record how it ended.

    Args:
        database: where the run's row is.
        store: for masks and Parquet.
        run_id: from `db.runs.start_run`, with a `RunConfig` as its configuration.
        on_progress: called after each series.

    Raises:
        RunInterruptedError: Ctrl-C or SIGTERM; the run can be gone on with by submitting again.
        VaesegError: the store or the database failed; finished series are kept.
    """
    started = time.monotonic()
    task = run_task(database, run_id)
    config = RunConfig.from_json(task.config)
    try:
        with interruptible() as interruption, heartbeats(database, run_id):
            scan = _scan(Path(task.root), store, config)
            record_scan(database, task.archive_id, *index_rows(scan))
            run = _Run(
                run_id=run_id,
                database=database,
                store=store,
                config=config,
                interruption=interruption,
                on_progress=on_progress,
            )
            report = _process(run, scan)
    except VaesegError as error:
        _finish_quietly(database, run_id, "interrupted" if isinstance(error, RunInterruptedError) else "failed")
        raise
    report.seconds = time.monotonic() - started
    counts = {"outcomes": report.outcomes, "n_slices": report.n_slices, "seconds": round(report.seconds, 3)}
    finish_run(database, run_id, report.status, counts, scan.file_count)
    return report


def _scan(root: Path, store: Store, config: RunConfig) -> ArchiveScan:
    scan = scan_for(root, store.root, config, SubjectKeyer(subject_secret(store.root)))
    FILES_REFUSED.inc(scan.file_count.refused)
    return scan


def _process(run: _Run, scan: ArchiveScan) -> RunReport:
    """Plan what is left to do, skip by rule, segment the rest."""
    manifests = {v.series_key: v.manifest for v in scan.verdicts if v.manifest is not None}
    run.interruption.check()
    work = plan_work(run.database, run.run_id, list(manifests), retry=run.config.retry, limit=run.config.limit)
    report = RunReport(run_id=run.run_id, files=scan.file_count, outcomes=_planned_outcomes(scan, manifests, work))
    labels: dict[str, Path] = {}
    if run.config.label_dir is not None:
        labels, report.unmatched_labels = find_labels(Path(run.config.label_dir), manifests.values())
    if not work.pending:
        report.status = "nothing_to_do"
        return report
    committer = Committer(run.database, run.store, run.run_id, run.config, report, len(work.pending), run.on_progress)
    to_segment = []
    for item in work.pending:
        if skipped := skip_by_rule(manifests[item.series_key], run.config.segmentation.selection):
            committer.add(item, skipped)
        else:
            to_segment.append((item, manifests[item.series_key]))
    committer.flush()
    if to_segment:
        _segment(run, committer, str(scan.root), to_segment, labels)
    return report


def _planned_outcomes(scan: ArchiveScan, manifests: dict[str, SeriesManifest], work: PlannedWork) -> dict[str, int]:
    accounted = len(work.pending) + len(work.already_done) + len(work.left_out)
    return {
        "segmented": 0,
        "skipped": 0,
        "failed": 0,
        "crashed": 0,
        "already_done": len(work.already_done),
        "left_out": len(work.left_out),
        "not_planned": len(manifests) - accounted,
        "refused": sum(verdict.ref is not None and not verdict.readable for verdict in scan.verdicts),
    }


def _segment(
    run: _Run,
    committer: Committer,
    root: str,
    work: Sequence[tuple[WorkItem, SeriesManifest]],
    labels: Mapping[str, Path],
) -> None:
    """Run series through the pipeline, committing as they come; those that never come have crashed."""
    key = run_key(run.database, run.run_id)
    items = {item.work_item_id: item for item, _ in work}
    rows = [
        planned_row(
            item.work_item_id,
            manifest,
            root,
            str(labels.get(item.series_key, "")),
            f"masks/{item.study_instance_uid}/{item.series_key}/{mask_folder(key.model, item.generation)}",
        )
        for item, manifest in work
    ]
    stages = _stage_config(run.store, run.config, key.model_digest)

    def produce() -> Generator[SeriesRow]:
        start_local_ray()
        yield from segment_rows(rows, stages)

    try:
        for row in consume_in_thread(produce, run.interruption.check):
            committer.add(items.pop(row["work_item"]), _checked(row))
    finally:
        committer.flush()
    committer.crashed(list(items.values()))


def _checked(row: SeriesRow) -> SeriesOutcome:
    failure = failure_of(row)
    if failure is not None and failure.stops_run:
        raise StoreError(failure.detail)
    return outcome_of(row)


def _stage_config(store: Store, config: RunConfig, model_digest: str) -> StageConfig:
    checkpoint = load_checkpoint(Path(config.model_path))
    if checkpoint.digest != model_digest:
        raise CheckpointError("the model file changed since the run was submitted; submit again")
    return StageConfig(
        store_root=str(store.root),
        model_path=config.model_path,
        image_size=checkpoint.preprocessing.image_size,
        reading=config.segmentation.reading,
        output_types=config.segmentation.output_types,
        device=config.device,
        batch_size=config.batch_size,
    )


def _finish_quietly(database: Database, run_id: str, status: EndStatus) -> None:
    """Record the end if the database still can; the error that brought us here matters more."""
    try:
        finish_run(database, run_id, status)
    except StoreError as error:
        logger.debug("the end of run %s was not recorded: %s", run_id, error)
