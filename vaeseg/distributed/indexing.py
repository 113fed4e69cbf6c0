"""From a scan of files to the rows of the index."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vaeseg.config import RunConfig
from vaeseg.db.archives import FileRow, SeriesRow
from vaeseg.errors import StoreError
from vaeseg.io.archive import ArchiveScan, scan_archive
from vaeseg.io.dicom import SubjectKeyer
from vaeseg.io.series import SeriesVerdict


def scan_for(root: Path, store_root: Path, config: RunConfig, keyer: SubjectKeyer | None) -> ArchiveScan:
    """What a run would find: the archive, without a store or labels that lie inside it.

    Raises:
        StoreError: the directory cannot be listed.
    """
    exclude = [store_root] if config.label_dir is None else [store_root, Path(config.label_dir)]
    try:
        return scan_archive(root, config.segmentation.reading, keyer, exclude)
    except OSError as error:
        raise StoreError(f"cannot list the study directory: {error.strerror}") from error


def index_rows(scan: ArchiveScan) -> tuple[list[SeriesRow], Iterator[FileRow]]:
    """Every series with a UID, readable or refused, and every file found: in one of them, or with its reason."""
    series = [_series_row(verdict) for verdict in scan.verdicts if verdict.ref is not None]
    found = {file.path: file for file in scan.files}
    files = (
        FileRow(
            path=_storable(file.path),
            size=file.size,
            mtime_ns=found[file.path].mtime_ns,
            sop_instance_uid=file.sop_instance_uid or None,
            series_key=verdict.series_key if verdict.ref else None,
            reason=None if verdict.ref else verdict.reason,
        )
        for verdict in scan.verdicts
        for file in verdict.files
    )
    return series, files


def _series_row(verdict: SeriesVerdict) -> SeriesRow:
    assert verdict.ref is not None
    geometry = verdict.manifest.geometry if verdict.manifest else None
    shape = geometry.shape if geometry else (None, None, None)
    return SeriesRow(
        series_key=verdict.series_key,
        series_instance_uid=verdict.ref.series_instance_uid,
        study_instance_uid=verdict.ref.study_instance_uid,
        subject_key=verdict.ref.subject_key,
        modality=verdict.modality,
        reason=verdict.reason,
        detail=verdict.detail,
        warnings=tuple(str(warning) for warning in verdict.warnings),
        n_instances=len(verdict.files),
        n_files=len(verdict.files),
        n_slices=shape[0],
        rows=shape[1],
        columns=shape[2],
        spacing_mm=geometry.spacing_mm if geometry else None,
        voxel_volume_mm3=geometry.voxel_volume_mm3 if geometry else None,
        fingerprint=verdict.fingerprint,
    )


def _storable(path: str) -> str:
    """File names need not be UTF-8, text columns must be."""
    return path.encode("utf-8", "backslashreplace").decode()
