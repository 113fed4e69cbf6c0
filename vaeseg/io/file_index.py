"""What one file says, as the index keeps it, so that a file that did not change is not opened again.

A file is judged together with its group: the DICOM instances of one study and series UID, or a NIfTI file alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields, replace
from datetime import date
from typing import Any

from vaeseg.config import ReadingConfig
from vaeseg.io.archive import FileRecord, warned_of_damage
from vaeseg.io.headers import InstanceHeader
from vaeseg.io.manifest import SeriesManifest, SliceFile, matrix_as_tuples
from vaeseg.io.series import SeriesVerdict, assemble_series, group_key
from vaeseg.paths import AnyPath
from vaeseg.records import IndexedFile, SeriesRef, Warn

READER_VERSION = 8
"""Goes up when a header is read or kept otherwise: files of an index that an older reader made are read again."""

OF_THE_FILE = ("path", "size", "mtime_ns")
HEADER_FIELDS = tuple(field.name for field in fields(InstanceHeader) if field.name not in OF_THE_FILE)
_encoded = json.JSONEncoder(default=date.isoformat).encode
TUPLES = frozenset({"image_type", "position", "orientation", "pixel_spacing_mm", "rescale"})


def indexed(record: FileRecord) -> IndexedFile:
    """What the index keeps of a file that was read."""
    common = {name: getattr(record.file, name) for name in OF_THE_FILE} | {"is_damaged": record.is_damaged}
    if record.header is not None:
        values = [getattr(record.header, name) for name in HEADER_FIELDS]
        return IndexedFile(
            **common,
            sop_instance_uid=record.header.sop_instance_uid or None,
            group_key="/".join(group_key(record.header)),
            header=_encoded(values),
        )
    if record.volume is not None:
        return IndexedFile(**common, group_key=record.volume.series_key, header=_volume_json(record.volume))
    return IndexedFile(**common, reason=str(record.reason), detail=record.detail)


def study_of(file: IndexedFile) -> str | None:
    """Study UID of a DICOM instance; None for anything else."""
    if file.group_key is None or "/" not in file.group_key:
        return None
    return file.group_key.partition("/")[0]


def judge_group(
    root: AnyPath, files: Sequence[IndexedFile], config: ReadingConfig, is_beside_damage: bool
) -> list[SeriesVerdict]:
    """The verdicts of one group; every file is in exactly one.

    Args:
        root: of the archive; opened only to compare files that claim to be the same instance.
        files: all of the group.
        config: bounds.
        is_beside_damage: whether a directory of theirs holds a damaged file.
    """
    if "/" not in (files[0].group_key or ""):
        return [_volume(file) for file in files]
    verdicts = assemble_series(root, [_header(file) for file in files], config)
    return [warned_of_damage(verdict) for verdict in verdicts] if is_beside_damage else verdicts


def _header(file: IndexedFile) -> InstanceHeader:
    kept = json.loads(file.header or "")
    values = dict(zip(HEADER_FIELDS, kept, strict=False))  # an older reader kept fewer, and the last ones have defaults
    for name in TUPLES & values.keys():
        values[name] = None if values[name] is None else tuple(values[name])
    values["study_date"] = values["study_date"] and date.fromisoformat(values["study_date"])
    values["warnings"] = tuple(Warn(name) for name in values["warnings"])
    return InstanceHeader(path=file.path, size=file.size, mtime_ns=file.mtime_ns, **values)


def _volume_json(verdict: SeriesVerdict) -> str:
    assert verdict.ref is not None
    manifest = verdict.manifest
    values: dict[str, Any] = {
        "series_instance_uid": verdict.ref.series_instance_uid,
        "study_instance_uid": verdict.ref.study_instance_uid,
        "subject_key": verdict.ref.subject_key,
        "fingerprint": verdict.fingerprint,
        "reason": verdict.reason,
        "detail": verdict.detail,
        "shape": manifest and manifest.shape,
        "lps_from_kji": manifest and manifest.lps_from_kji,
        "warnings": list(verdict.warnings),
    }
    return json.dumps(values)


def _volume(file: IndexedFile) -> SeriesVerdict:
    values = json.loads(file.header or "")
    ref = SeriesRef(**{field.name: values[field.name] for field in fields(SeriesRef)})
    verdict = SeriesVerdict(
        series_key=ref.series_instance_uid,
        ref=ref,
        modality=None,
        files=(SliceFile(path=file.path, size=file.size),),
        fingerprint=values["fingerprint"],
        reason=values["reason"],
        detail=values["detail"],
        warnings=tuple(Warn(name) for name in values["warnings"]),
    )
    if values["shape"] is None:
        return verdict
    manifest = SeriesManifest(
        kind="nifti",
        series_key=verdict.series_key,
        ref=ref,
        files=verdict.files,
        shape=tuple(values["shape"]),
        lps_from_kji=matrix_as_tuples(values["lps_from_kji"]),
        warnings=verdict.warnings,
    )
    return replace(verdict, manifest=manifest)
