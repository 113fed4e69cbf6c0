"""A small archive, model and run in a ledger, and outcomes whose numbers can be checked by hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from sqlalchemy import event, update

from vaeseg.canonical import as_json
from vaeseg.config import RunConfig
from vaeseg.db.archives import ensure_archive
from vaeseg.db.index_files import record_files
from vaeseg.db.index_series import JudgedSeries, SeriesRow, record_groups
from vaeseg.db.runs import ModelRow, register_model, start_run
from vaeseg.db.session import Database
from vaeseg.db.tables import RunTable
from vaeseg.db.work import WorkItem, mask_folder
from vaeseg.io.parquet import encode_mask
from vaeseg.records import (
    FailedSeries,
    IndexedFile,
    LesionRecord,
    Overlap,
    SegmentedSeries,
    SkippedSeries,
    SliceRecord,
)

ROOT = "/archive/Doe^Jane/2026"
"""A root that names a patient, as real ones do."""

HEAD = "0008"
"""The newest revision of the schema."""

MODEL = "phantom-v1"

DIGEST = "a" * 64

SUBJECT = "5" * 16

FILES = {
    "files_found": 5,
    "files_in_series": 3,
    "files_refused": 2,
    "files_waiting": 0,
    "files_refused_by_reason": {"not_an_image": 2},
}

MASK = np.zeros((3, 4, 5), dtype=bool)
MASK[1, 1:3, 2:4] = True


class Clock:
    """A clock that tests move by hand."""

    def __init__(self) -> None:
        self.moment = datetime(2026, 11, 22, 1, 30, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.moment

    def advance(self, seconds: float) -> None:
        self.moment += timedelta(seconds=seconds)


def series_row(uid: str, **changes: Any) -> SeriesRow:
    """A readable series of three slices."""
    values: dict[str, Any] = {
        "series_key": uid,
        "series_instance_uid": uid.partition("-")[0],
        "study_instance_uid": "1.2",
        "subject_key": SUBJECT,
        "modality": "CT",
        "n_instances": 3,
        "n_files": 3,
        "n_slices": 3,
        "rows": 4,
        "columns": 5,
        "spacing_mm": (2.0, 0.5, 0.75),
        "voxel_volume_mm3": 0.75,
        "fingerprint": "f" * 64,
    }
    return SeriesRow(**values | changes)


def files_of(row: SeriesRow) -> list[IndexedFile]:
    """Its files."""
    return [
        IndexedFile(
            path=f"DOE^JANE/{row.series_key}/{n}.dcm",
            size=1000 + n,
            mtime_ns=1_700_000_000_000_000_000 + n,
            sop_instance_uid=f"{row.series_instance_uid}.{n}",
            group_key=group_of(row),
            header="[]",
        )
        for n in range(row.n_files)
    ]


def group_of(row: SeriesRow) -> str:
    """What its files are judged with."""
    return f"{row.study_instance_uid}/{row.series_instance_uid}"


def scan(database: Database, rows: Sequence[SeriesRow], junk: int = 0, root: str = ROOT) -> int:
    """Record a scan of these series and some files that are in none; the archive's id."""
    archive_id = ensure_archive(database, root)
    files = [file for row in rows for file in files_of(row)]
    files += [IndexedFile(path=f"junk/{n}.txt", size=n, mtime_ns=n, reason="not_an_image") for n in range(junk)]
    record_files(database, archive_id, 1, files)
    judged: dict[str, list[JudgedSeries]] = {}
    for row in rows:
        paths = tuple(file.path for file in files_of(row))
        judged.setdefault(group_of(row), []).append(JudgedSeries(row=row, paths=paths))
    record_groups(database, archive_id, judged)
    return archive_id


def begin_run(
    database: Database, archive_id: int, *, config_digest: str = "c" * 64, model: str = MODEL, digest: str = DIGEST
) -> str:
    """Register the model and start a run, of a scan that found five files."""
    register_model(database, ModelRow(digest=digest, name=model, architecture={"kind": "spatial"}))
    run_id = start_run(
        database,
        kind="segment",
        archive_id=archive_id,
        model_digest=digest,
        config_json=as_json(RunConfig(model_path=model)),
        config_digest=config_digest,
    )
    with database.write() as connection:
        connection.execute(update(RunTable).where(RunTable.id == run_id).values(FILES))
    return run_id


def segmented(item: WorkItem, *, volume_ml: float = 3.0, overlap: Overlap | None = None) -> SegmentedSeries:
    """Two lesions, of two thirds and one third of the volume; none where the volume is 0."""
    shares = (2 / 3, 1 / 3) if volume_ml else ()
    uri = f"masks/{item.study_instance_uid}/{item.series_instance_uid}/{mask_folder(MODEL, item.generation)}"
    return SegmentedSeries(
        ref=item.ref,
        n_slices=3,
        tumour_volume_ml=volume_ml,
        lesions=tuple(lesion(n + 1, share * volume_ml) for n, share in enumerate(shares)),
        slices=tuple(SliceRecord(slice_index=k, tumour_area_mm2=float(MASK[k].sum())) for k in range(3)),
        mask_uri=f"{uri}/mask.nii.gz",
        mask_sha256="d" * 64,
        mask_encoding=encode_mask(MASK),
        mask_shape=(3, 4, 5),
        overlap=overlap,
        warnings=("gantry_tilt",),
        read_seconds=0.5,
        segment_seconds=0.25,
        measure_seconds=0.125,
    )


def lesion(index: int, volume_ml: float) -> LesionRecord:
    """A lesion of this volume."""
    return LesionRecord(
        lesion_index=index,
        volume_ml=volume_ml,
        n_voxels=10 * index,
        centroid_lps_mm=(1.0, -2.0, 3.0),
        longest_axial_diameter_mm=12.5,
        mean_hu=35.0,
    )


def skipped(item: WorkItem) -> SkippedSeries:
    """Left out by a rule."""
    return SkippedSeries(ref=item.ref, reason="min_slices", detail="3 slices, at least 8 wanted")


def failed(item: WorkItem, *, crashed: bool = False) -> FailedSeries:
    """Could not be decoded."""
    reason = "decoder_crashed" if crashed else "decode_failed"
    return FailedSeries(ref=item.ref, reason=reason, detail="slice 2 of 3", crashed=crashed, read_seconds=1.5)


@contextmanager
def counted_statements(database: Database) -> Iterator[list[str]]:
    """The SQL statements that are executed within, executemany counted once."""
    statements: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        event.remove(database.engine, "before_cursor_execute", note)
