"""A run from its row in the database to its end: scan, plan, segment, commit.

`jobs/segment_archive.py` and `vaeseg-batch submit` both execute runs through here.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TypeVar

from vaeseg.config import RunConfig, series_at_once
from vaeseg.db.coverage import Coverage, Scanned, count_coverage
from vaeseg.db.drivers import take_archive
from vaeseg.db.findings import series_with_outcome
from vaeseg.db.index_series import SeriesName, readable_series, refused_files, studies_of_refused_series
from vaeseg.db.runs import EndStatus, finish_run, run_task
from vaeseg.db.session import Database
from vaeseg.db.upsert import in_batches
from vaeseg.db.work import PlannedWork, WorkItem, mask_folder, plan_work, run_key
from vaeseg.distributed.committer import Committer
from vaeseg.distributed.indexing import MANIFESTS_AT_ONCE, IndexJob, IndexReport, manifests_of, update_index
from vaeseg.distributed.lifecycle import (
    Interruption,
    RunInterruptedError,
    consume_in_thread,
    finish_quietly,
    heartbeats,
    interruptible,
)
from vaeseg.distributed.local import cores_at_hand, hardware, start_local_ray
from vaeseg.distributed.pace import Pace
from vaeseg.distributed.report import ProgressCallback, RunReport, no_progress
from vaeseg.distributed.rows import SeriesRow, failure_of, outcome_of, planned_row
from vaeseg.distributed.rules import Selection, rules_digest, select_series
from vaeseg.distributed.selection import skip_by_rule
from vaeseg.distributed.sources import check_labels, index_job
from vaeseg.distributed.stage import StageConfig
from vaeseg.distributed.worker_metrics import write_to_ray
from vaeseg.errors import ARCHIVE_GONE, StoreError, VaesegError
from vaeseg.io.archive import NIFTI_SUFFIXES
from vaeseg.io.labels import find_labels, label_names
from vaeseg.io.listing import is_there
from vaeseg.io.manifest import SeriesManifest
from vaeseg.io.store import Store
from vaeseg.logs import logged_with
from vaeseg.models.description import describe
from vaeseg.models.files import resolve_model
from vaeseg.paths import AnyPath, any_path
from vaeseg.records import TRANSIENT, FailedSeries, Reason, SeriesOutcome, SkippedSeries
from vaeseg.telemetry import FILES_REFUSED

T = TypeVar("T")
_Planned = tuple[WorkItem, SeriesRow | FailedSeries | SkippedSeries]
"""A series with its row for the pipeline, or with what became of it."""


@dataclass(kw_only=True)
class _Run:
    """What the steps of one run share."""

    run_id: str
    database: Database
    store: Store
    config: RunConfig
    job: IndexJob
    interruption: Interruption
    rules_digest: str | None
    """Of the rules that it follows beside those of its configuration."""
    index: IndexReport | None = None
    """None until the index is up to date."""
    pace: Pace = field(default_factory=Pace)
    coverage: Coverage | None = None
    """None until its work has ended, and for good where the index did not get up to date."""

    def update_index(self) -> IndexReport:
        """Bring the index up to date; from then on it is known what there is to account for."""
        self.index = self.outlasting(lambda: update_index(self.database, self.job, self.interruption.check))
        self.pace.indexed(self.index.counts()["n_read"])
        return self.index

    def outlasting(self, work: Callable[[], T]) -> T:
        """`Database.outlasting`."""
        return self.database.outlasting(work)

    def count_coverage(self, database: Database) -> None:
        """Count what has become of everything, if it is known what there is; whether to wait is the database's."""
        if self.index is not None:
            scanned = Scanned(
                n_files=self.index.n_listed + self.index.n_unseen,
                n_waiting=self.index.n_waiting,
                waiting_studies=self.index.waiting_studies,
                rules_digest=self.rules_digest,
            )
            self.coverage = count_coverage(database, self.run_id, scanned)


def execute_run(
    database: Database, store: Store, run_id: str, on_progress: ProgressCallback = no_progress
) -> RunReport:
    """Do what a run was started to do, and record how it ended.

    Args:
        database: where the run's row is.
        store: for masks and Parquet.
        run_id: from `db.runs.start_run`, with a `RunConfig` as its configuration.
        on_progress: called after each commit.

    Raises:
        RunInterruptedError: Ctrl-C or SIGTERM; the run can be gone on with by submitting again.
        VaesegError: the store or the database failed; finished series are kept.
    """
    started = time.monotonic()
    with _executed(database, store, run_id) as run:
        check_labels(run.config)
        report = _process(run, run.update_index(), on_progress)
        report.seconds = time.monotonic() - started
    counts = {
        "outcomes": report.outcomes,
        "left_out_by_rule": report.left_out_by_rule,
        "n_slices": report.n_slices,
        "seconds": round(report.seconds, 3),
        "index": report.index,
        "unmatched_labels": report.unmatched_labels,
        "is_retry": report.is_retry,
        "pace": run.pace.counts(),
    }
    assert run.coverage is not None
    report.files = run.coverage.files
    run.outlasting(lambda: finish_run(run.database, run_id, report.status, counts, run.coverage))
    write_to_ray(FILES_REFUSED, "", report.files.refused)
    return report


def execute_index(database: Database, store: Store, run_id: str) -> dict[str, int]:
    """Bring the index of a run's archive up to date and do nothing else; returns `IndexReport.counts`.

    Raises:
        VaesegError: as `execute_run`.
    """
    with _executed(database, store, run_id) as run:
        report = run.update_index()
    counts = {"index": report.counts()}
    run.outlasting(lambda: finish_run(run.database, run_id, "finished", counts, run.coverage))
    return report.counts()


@contextmanager
def _executed(database: Database, store: Store, run_id: str) -> Iterator[_Run]:
    """A run that beats its heart until its coverage is counted; if it cannot end well, its row says how it ended."""
    task = run_task(database, run_id)
    config = RunConfig.from_json(task.config)
    how_to_go_on = f"finished series are kept, 'vaeseg-batch resume {run_id}' goes on with the rest"
    run: _Run | None = None
    try:
        with (
            logged_with(run_id=run_id),
            interruptible(how_to_go_on) as interruption,
            heartbeats(database, run_id, interruption.cancel),
        ):
            take_archive(database, task.archive_id, run_id)
            run = _Run(
                run_id=run_id,
                database=database.patient(interruption.check),
                store=store,
                config=config,
                job=index_job(database, store, task, config),
                interruption=interruption,
                rules_digest=rules_digest(config),
            )
            try:
                yield run
            except VaesegError:
                with suppress(VaesegError):  # the error that brought us here matters more
                    run.count_coverage(database)
                raise
            run.outlasting(lambda: run.count_coverage(run.database))
    except VaesegError as error:
        status: EndStatus = "interrupted" if isinstance(error, RunInterruptedError) else "failed"
        finish_quietly(database, run_id, status, run.coverage if run else None)
        raise


def _process(run: _Run, index: IndexReport, on_progress: ProgressCallback) -> RunReport:
    """Plan what is left to do, skip by rule, segment the rest."""
    run.interruption.check()
    series = run.outlasting(lambda: readable_series(run.database, run.job.archive_id))
    selection = run.outlasting(lambda: _select(run, index))
    if selection.unread and not is_there(run.job.root):
        raise StoreError(ARCHIVE_GONE)  # before anything is planned: rules are not asked about what is
    work, report = run.outlasting(lambda: _plan(run, index, series, selection))
    labels: dict[str, AnyPath] = {}
    if run.config.label_dir is not None:
        labels, report.unmatched_labels = find_labels(any_path(run.config.label_dir), _label_names(run, series))
    if not work.pending:
        report.status = "nothing_to_do"
        return report
    n_pending = len(work.pending)
    committer = Committer(run.database, run.store, run.run_id, run.config, report, n_pending, on_progress, write_to_ray)
    # those that rules could not be asked about fail first, so that an interruption leaves none to be taken for allowed
    pending = sorted(work.pending, key=lambda item: item.series_key not in selection.unread)
    planned = partial(_portions, _planned(run, pending, selection, labels))
    with closing(consume_in_thread(planned, run.interruption.check, handed_over=1)) as portions:
        for portion in portions:
            if _begins_no_more(run):
                break
            _segment(run, committer, portion)
    report.outcomes["pending"] = n_pending - committer.n_done
    return report


def _planned(
    run: _Run, items: Sequence[WorkItem], selection: Selection, labels: Mapping[str, AnyPath]
) -> Generator[_Planned]:
    """In order, some hundreds at a time, which are a tenth of a megabyte each for as long."""
    key = run.outlasting(lambda: run_key(run.database, run.run_id))
    for batch in in_batches(items, MANIFESTS_AT_ONCE):
        run.interruption.check()
        manifests = run.outlasting(partial(manifests_of, run.database, run.job, [item.series_key for item in batch]))
        for item in batch:
            manifest = manifests.get(item.series_key)
            if manifest is None:
                detail = "its files changed since they were listed"
                yield item, FailedSeries(ref=item.ref, reason=Reason.CHANGED_WHILE_READING, detail=detail)
            elif item.series_key in selection.unread:
                reason, detail = selection.unread[item.series_key]
                yield item, FailedSeries(ref=item.ref, reason=reason, detail=detail)
            elif skipped := skip_by_rule(manifest, run.config.segmentation.selection):
                yield item, skipped
            else:
                yield item, _row(run, item, manifest, key.model, labels)


def _row(run: _Run, item: WorkItem, manifest: SeriesManifest, model: str, labels: Mapping[str, AnyPath]) -> SeriesRow:
    return planned_row(
        item.work_item_id,
        manifest,
        str(run.job.root),
        str(labels.get(item.series_key, "")),
        f"masks/{item.study_instance_uid}/{item.series_key}/{mask_folder(model, item.generation)}",
    )


def _portions(items: Iterable[T]) -> Generator[list[T]]:
    """What goes through one pipeline, and more of it as the cluster grows; not for the main thread, as it asks Ray."""
    left = iter(items)
    while portion := list(islice(left, series_at_once(cores_at_hand()))):
        yield portion


def _label_names(run: _Run, series: Sequence[SeriesName]) -> dict[str, tuple[str, ...]]:
    refused = run.outlasting(lambda: refused_files(run.database, run.job.archive_id, NIFTI_SUFFIXES))
    return label_names(((name.series_key, name.series_instance_uid, name.volume_path) for name in series), refused)


def _begins_no_more(run: _Run) -> bool:
    return run.config.deadline is not None and run.database.now() >= run.config.deadline


def _select(run: _Run, index: IndexReport) -> Selection:
    key = run_key(run.database, run.run_id)
    return select_series(run.database, run.job, key, run.config, index.waiting_studies, run.interruption.check)


def _plan(
    run: _Run, index: IndexReport, series: Sequence[SeriesName], selection: Selection
) -> tuple[PlannedWork, RunReport]:
    """Enter in the ledger what is to do; the report accounts for every series that the run is about."""
    report = RunReport(run_id=run.run_id, index=index.counts(), is_retry=run.config.retry_of is not None)
    to_plan = [name.series_key for name in series if name.study_instance_uid not in index.waiting_studies]
    refused = studies_of_refused_series(run.database, run.job.archive_id)
    n_refused = sum(study not in index.waiting_studies for study in refused)
    n_waiting = len(series) + len(refused) - len(to_plan) - n_refused
    if run.config.retry_of is not None:
        n_refused = n_waiting = 0
        wanted = series_with_outcome(run.database, run.config.retry_of, run.config.retry_outcomes)
        to_plan = [key for key in to_plan if key in wanted]
    left_out = Counter(selection.left_out[key] for key in to_plan if key in selection.left_out)
    to_plan = [key for key in to_plan if key not in selection.left_out]
    work = plan_work(run.database, run.run_id, to_plan, retry=run.config.retry, limit=run.config.limit)
    report.left_out_by_rule = dict(sorted(left_out.items()))
    report.outcomes = _planned_outcomes(len(to_plan), work)
    report.outcomes |= {"left_out_by_rule": left_out.total(), "refused": n_refused, "waiting": n_waiting}
    return work, report


def _planned_outcomes(n_to_plan: int, work: PlannedWork) -> dict[str, int]:
    accounted = len(work.pending) + len(work.already_done) + len(work.left_out)
    return {
        "segmented": 0,
        "skipped": 0,
        "failed": 0,
        "crashed": 0,
        "pending": 0,
        "already_done": len(work.already_done),
        "left_out": len(work.left_out),
        "not_planned": n_to_plan - accounted,
    }


def _segment(run: _Run, committer: Committer, portion: Sequence[_Planned]) -> None:
    """Commit what is known of series, and run the others through the pipeline, committing as they come; those that
    never come have crashed.

    A series whose turn comes after the run's deadline passes through untouched and stays pending.
    """
    items: dict[int, WorkItem] = {}
    rows: list[SeriesRow] = []
    for item, planned in portion:
        if isinstance(planned, FailedSeries | SkippedSeries):
            _check_archive(run.job.root, planned)
            committer.add(item, planned)
        else:
            items[item.work_item_id] = item
            rows.append(planned)
    committer.flush()
    if not rows:
        return
    stages = _stage_config(run, run.outlasting(lambda: run_key(run.database, run.run_id)).model_digest)
    run.pace.portion_begins()

    def produce() -> Generator[SeriesRow]:
        start_local_ray()
        from vaeseg.distributed import batch  # Ray Data: a night without work need not wait for it, nor Ray's start

        run.pace.ray_is_up(batch.device_of(stages), hardware())
        yield from batch.segment_rows(rows, stages)

    try:
        for row in consume_in_thread(produce, run.interruption.check):
            item = items.pop(row["work_item"])
            if (outcome := _checked(row)) is not None:
                _check_archive(run.job.root, outcome)
                run.pace.came(outcome)
                committer.add(item, outcome)
    finally:
        committer.flush()
    committer.crashed(list(items.values()))


def _check_archive(root: AnyPath, outcome: SeriesOutcome) -> None:
    """Let no series fail, one after the other, because the archive dropped out; on one node alone it is its own affair.

    Raises:
        StoreError: it did.
    """
    if isinstance(outcome, FailedSeries) and outcome.reason in TRANSIENT and not is_there(root):
        raise StoreError(ARCHIVE_GONE)


def _checked(row: SeriesRow) -> SeriesOutcome | None:
    """What became of a series; None for one that was postponed."""
    failure = failure_of(row)
    if failure is not None and failure.is_postponed:
        return None
    if failure is not None and failure.stops_run:
        raise StoreError(failure.detail)
    return outcome_of(row)


def _stage_config(run: _Run, model_digest: str) -> StageConfig:
    config = run.config
    model = describe(resolve_model(config.model_path))
    model.check_digest(model_digest)
    return StageConfig(
        run_id=run.run_id,
        store_root=str(run.store.root),
        model=config.model_path,
        model_digest=model_digest,
        image_size=model.preprocessing.image_size,
        reading=config.segmentation.reading,
        output_types=config.segmentation.output_types,
        organ=config.segmentation.organ,
        device=config.device,
        batch_size=config.batch_size,
        precision=config.precision,
        actors=config.actors,
        plan_until=config.deadline,
    )
