"""The commit of a group of series, in steps that can be interrupted anywhere without losing or doubling a finding.

    staged      the part's files are in staging, durable           killed here: recovery removes them
    recorded    SQL has findings, lesions, part and work state     killed here: recovery moves the files
    moved       one more file lies where readers look              killed here: recovery moves the others
    published   SQL knows that all files are in their place

The driver calls this and is the only writer; nothing here knows Ray.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from vaeseg.db.drivers import is_live
from vaeseg.db.findings import FindingRow, NewFinding, lesion_columns, open_items, record_group
from vaeseg.db.parts import is_recorded, mark_published, next_part_name, unpublished_parts
from vaeseg.db.session import Database
from vaeseg.db.work import RunKey, WorkItem, run_key
from vaeseg.io.parts import publish_file, remove_empty_staging, remove_staged, stage_part, staged_files
from vaeseg.io.store import Store
from vaeseg.records import FailedSeries, PartFile, Reason, SegmentedSeries, SeriesOutcome, SkippedSeries

logger = logging.getLogger(__name__)

COMMIT_STEPS = ("staged", "recorded", "moved", "published")
"""Names with which the step hook is called, each after what it names; `moved` once a file."""

Step = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """What `recover_parts` did."""

    published: tuple[PartFile, ...]
    """Files that SQL knew, now in their place."""
    removed: tuple[PartFile, ...]
    """Staged files that SQL never knew; their series are still pending."""
    missing: tuple[PartFile, ...]
    """Files that SQL knows and that are nowhere."""


def _no_step(_name: str) -> None:
    return


def commit_group(
    run_id: str,
    outcomes: Sequence[tuple[WorkItem, SeriesOutcome]],
    store: Store,
    database: Database,
    step: Step = _no_step,
) -> int:
    """Make what became of a group of series durable in Parquet and SQL.

    An item that is done already, because another run was faster, is left out.

    Args:
        run_id: a run with an archive and a model.
        outcomes: items of `plan_work` and their outcomes, one for each series.
        store: for the part's files.
        database: for everything else.
        step: called after each of `COMMIT_STEPS`; raising in it is like being killed there.

    Returns:
        Number of findings committed.

    Raises:
        StoreError: the store or the database cannot be written; what was committed before stays.
    """
    is_open = database.outlasting(lambda: open_items(database, [item for item, _ in outcomes]))
    group = [(item, outcome) for item, outcome in outcomes if item.work_item_id in is_open]
    if not group:
        return 0
    run = database.outlasting(lambda: run_key(database, run_id))
    part_name = database.outlasting(lambda: next_part_name(database, run_id))
    findings = [new_finding(run, item, outcome, database.now()) for item, outcome in group]
    files = stage_part(store, run_id, part_name, _dataset_rows(run, group, findings))
    step("staged")
    database.outlasting(lambda: _record_once(database, run, findings, files))
    step("recorded")
    _publish(files, store, database, step)
    return len(findings)


def mark_crashed(run_id: str, items: Sequence[WorkItem], store: Store, database: Database) -> int:
    """Commit series whose process died as `crashed`; they are left out of later runs until asked for."""
    outcomes = [(item, _crashed(item)) for item in items]
    return commit_group(run_id, outcomes, store, database)


def recover_parts(store: Store, database: Database) -> Recovery:
    """Finish or undo commits that were interrupted; call it before a run plans its work.

    Staged files that SQL knows are moved to their place, others removed, save those of a run that is alive. Doing it
    twice, or being interrupted in it, does no harm.

    Raises:
        StoreError: the store or the database cannot be written.
    """
    recorded = unpublished_parts(database)
    published = tuple(part for part in recorded if publish_file(store, part))
    mark_published(database, published)
    removed = tuple(part for part in staged_files(store) if _is_abandoned(part, database))
    for part in removed:
        remove_staged(store, part)
    for run_id in {part.run_id for part in published}:
        remove_empty_staging(store, run_id)
    missing = tuple(part for part in recorded if part not in published)
    for part in missing:
        logger.error("part %s of %s of run %s is recorded but its file is gone", part.name, part.dataset, part.run_id)
    return Recovery(published=published, removed=removed, missing=missing)


def new_finding(run: RunKey, item: WorkItem, outcome: SeriesOutcome, created_at: datetime) -> NewFinding:
    """The row, and the lesions, for one outcome."""
    identity: dict[str, Any] = {
        "run_id": run.run_id,
        "series_instance_uid": item.series_instance_uid,
        "study_instance_uid": item.study_instance_uid,
        "subject_key": item.subject_key,
        "model": run.model,
        "created_at": created_at,
    }
    match outcome:
        case SegmentedSeries():
            row = FindingRow(**identity, **_measurements(outcome))
            return NewFinding(item=item, row=row, lesions=outcome.lesions)
        case SkippedSeries():
            row = FindingRow(
                **identity, outcome="skipped", reason=outcome.reason, detail=outcome.detail, n_slices=item.n_slices
            )
        case FailedSeries():
            row = FindingRow(
                **identity,
                outcome="crashed" if outcome.crashed else "failed",
                reason=outcome.reason,
                detail=outcome.detail,
                n_slices=item.n_slices,
                read_seconds=outcome.read_seconds,
            )
    return NewFinding(item=item, row=row)


def _measurements(outcome: SegmentedSeries) -> dict[str, Any]:
    return {
        "outcome": "segmented",
        "warnings": outcome.warnings,
        "n_slices": outcome.n_slices,
        "tumour_volume_ml": outcome.tumour_volume_ml,
        "lesion_count": len(outcome.lesions),
        "largest_lesion_ml": max((lesion.volume_ml for lesion in outcome.lesions), default=0.0),
        **(asdict(outcome.overlap) if outcome.overlap else {}),
        "label_reason": outcome.label_reason,
        "read_seconds": outcome.read_seconds,
        "segment_seconds": outcome.segment_seconds,
        "measure_seconds": outcome.measure_seconds,
        "mask_uri": outcome.mask_uri,
        "mask_sha256": outcome.mask_sha256,
    }


def _dataset_rows(
    run: RunKey, group: Sequence[tuple[WorkItem, SeriesOutcome]], findings: Sequence[NewFinding]
) -> dict[str, list[dict[str, Any]]]:
    """Rows of every Parquet data set; segmented series alone have lesions, slices and masks."""
    rows: dict[str, list[dict[str, Any]]] = {
        "findings": [asdict(new.row) for new in findings],
        "lesions": [],
        "slices": [],
        "masks": [],
    }
    for item, outcome in group:
        if isinstance(outcome, SegmentedSeries):
            key = _key(run, item)
            rows["lesions"] += [key | lesion_columns(lesion) for lesion in outcome.lesions]
            rows["slices"] += [key | asdict(plane) for plane in outcome.slices]
            rows["masks"].append(key | _mask_row(outcome))
    return rows


def _key(run: RunKey, item: WorkItem) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "series_instance_uid": item.series_instance_uid,
        "series_key": item.series_key,
        "model": run.model,
    }


def _mask_row(outcome: SegmentedSeries) -> dict[str, Any]:
    n_slices, rows, columns = outcome.mask_shape
    return {
        "n_slices": n_slices,
        "rows": rows,
        "columns": columns,
        "mask": outcome.mask_encoding,
        "mask_uri": outcome.mask_uri,
        "mask_sha256": outcome.mask_sha256,
    }


def _record_once(database: Database, run: RunKey, findings: Sequence[NewFinding], files: Sequence[PartFile]) -> None:
    """A server that went away in a commit may have done it all the same."""
    if not is_recorded(database, files[0]):
        record_group(database, run, findings, files)


def _publish(files: Sequence[PartFile], store: Store, database: Database, step: Step) -> None:
    for file in files:
        publish_file(store, file)
        step("moved")
    database.outlasting(lambda: mark_published(database, files))
    remove_empty_staging(store, files[0].run_id)
    step("published")


def _crashed(item: WorkItem) -> FailedSeries:
    detail = f"the process that had it died on attempt {item.attempts}"
    return FailedSeries(ref=item.ref, reason=Reason.DECODER_CRASHED, detail=detail, crashed=True)


def _is_abandoned(part: PartFile, database: Database) -> bool:
    return not is_recorded(database, part) and not is_live(database, part.run_id)
