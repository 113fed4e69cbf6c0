"""What an index gives to tasks: listing trees, reading headers and judging groups of files, with results as JSON.

A worker imports this module and what it names: neither Ray Data nor a database, so that it starts in half a second.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import date
from typing import Any

from vaeseg.config import ReadingConfig
from vaeseg.io.archive import read_files as read_headers
from vaeseg.io.dicom import SubjectKeyer, quiet_pydicom
from vaeseg.io.file_index import indexed, judge_group
from vaeseg.io.listing import FoundFile, Listing, walk
from vaeseg.io.series import SeriesVerdict
from vaeseg.paths import AnyPath
from vaeseg.records import IndexedFile


def list_trees(root: AnyPath, exclude: tuple[AnyPath, ...], item: str) -> Iterator[str]:
    """Every directory from some on down, each for `listing_from_json`; a task.

    Args:
        root: of the archive.
        exclude: directories not to enter.
        item: JSON list of directories, relative to the root.
    """
    for start in json.loads(item):
        for listing in walk(root, start, exclude):
            yield json.dumps(vars(listing) | {"files": [vars(file) for file in listing.files]})


def listing_from_json(text: str) -> Listing:
    """What `list_trees` made."""
    values = json.loads(text)
    values["files"] = tuple(FoundFile(**file) for file in values["files"])
    return Listing(**values)


def files_to_json(files: Sequence[FoundFile]) -> str:
    """An item for `read_files`."""
    return json.dumps([vars(file) for file in files])


def read_files(root: AnyPath, config: ReadingConfig, secret: bytes, item: str) -> list[str]:
    """Read the headers of some files, all for one `headers_from_json`; a task.

    Args:
        root: of the archive.
        config: bounds.
        secret: of the subject keys.
        item: from `files_to_json`.
    """
    keyer = SubjectKeyer(secret)
    with quiet_pydicom():
        records = read_headers(root, [FoundFile(**file) for file in json.loads(item)], config, keyer)
    return [json.dumps([vars(indexed(record)) for record in records])]


def headers_from_json(text: str) -> list[IndexedFile]:
    """What `read_files` made."""
    return [IndexedFile(**values) for values in json.loads(text)]


def judge_groups(root: AnyPath, config: ReadingConfig, item: str) -> list[str]:
    """Judge some groups of files; a task.

    Args:
        root: of the archive.
        config: bounds.
        item: JSON with the files of each group, and whether a damaged one lies beside them.

    Returns:
        The same with the series of each group instead: row of the index and paths.
    """
    given = json.loads(item)
    judged = {}
    for group in given["groups"]:
        files = [IndexedFile(**file) for file in group["files"]]
        verdicts = judge_group(root, files, config, group["is_beside_damage"])
        judged[files[0].group_key] = [
            {"row": _series_row(verdict), "paths": [file.path for file in verdict.files]} for verdict in verdicts
        ]
    return [json.dumps(given | {"groups": judged}, default=date.isoformat)]


def _series_row(verdict: SeriesVerdict) -> dict[str, Any]:
    assert verdict.ref is not None
    geometry = verdict.manifest.geometry if verdict.manifest else None
    shape = geometry.shape if geometry else (None, None, None)
    return {
        "series_key": verdict.ref.series_instance_uid,
        "series_instance_uid": verdict.ref.series_instance_uid,
        "study_instance_uid": verdict.ref.study_instance_uid,
        "subject_key": verdict.ref.subject_key,
        "modality": verdict.modality,
        "study_date": verdict.study_date,
        "reason": verdict.reason,
        "detail": verdict.detail,
        "warnings": tuple(str(warning) for warning in verdict.warnings),
        "n_instances": len(verdict.files),
        "n_files": len(verdict.files),
        "n_slices": shape[0],
        "rows": shape[1],
        "columns": shape[2],
        "spacing_mm": geometry.spacing_mm if geometry else None,
        "voxel_volume_mm3": geometry.voxel_volume_mm3 if geometry else None,
        "fingerprint": verdict.fingerprint,
    }
