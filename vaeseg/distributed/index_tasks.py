"""What an index gives to tasks: listing trees, reading headers and judging groups of files.

A worker imports this module and what it names: neither Ray Data nor a database, so that it starts in half a second.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from vaeseg.config import ReadingConfig
from vaeseg.io.archive import read_files as read_headers
from vaeseg.io.dicom import SubjectKeyer, quiet_pydicom
from vaeseg.io.file_index import indexed, judge_group
from vaeseg.io.listing import FoundFile, Listing, walk
from vaeseg.io.series import SeriesVerdict
from vaeseg.paths import AnyPath
from vaeseg.records import IndexedFile


class Group(NamedTuple):
    """Files that are judged together."""

    key: str
    files: Sequence[IndexedFile]
    is_beside_damage: bool
    """Whether a damaged file lies beside one of them."""


class Groups(NamedTuple):
    """Some groups to be judged."""

    number: int
    ends_page: bool
    """Whether what was fetched at once ends here."""
    groups: Sequence[Group]


class SeriesValues(NamedTuple):
    """A series of a group, for any process: workers know no database."""

    row: dict[str, Any]
    """Fields of `db.index_series.SeriesRow`."""
    paths: tuple[str, ...]


class JudgedGroups(NamedTuple):
    """What `Groups` make."""

    number: int
    ends_page: bool
    series: dict[str, list[SeriesValues]]
    """By group."""


def list_trees(root: AnyPath, exclude: tuple[AnyPath, ...], starts: Sequence[str]) -> Iterator[Listing]:
    """Every directory from some on down; a task.

    Args:
        root: of the archive.
        exclude: directories not to enter.
        starts: directories, relative to the root.
    """
    for start in starts:
        yield from walk(root, start, exclude)


def read_files(
    root: AnyPath, config: ReadingConfig, secret: bytes, files: Sequence[FoundFile]
) -> list[list[IndexedFile]]:
    """Read the headers of some files, all in one result; a task.

    Args:
        root: of the archive.
        config: bounds.
        secret: of the subject keys.
        files: any.
    """
    keyer = SubjectKeyer(secret)
    with quiet_pydicom():
        return [[indexed(record) for record in read_headers(root, files, config, keyer)]]


def judge_groups(root: AnyPath, config: ReadingConfig, given: Groups) -> list[JudgedGroups]:
    """Judge some groups of files; a task.

    Args:
        root: of the archive.
        config: bounds.
        given: the groups.
    """
    judged = {group.key: judge_group(root, group.files, config, group.is_beside_damage) for group in given.groups}
    series = {key: [_found(verdict) for verdict in verdicts] for key, verdicts in judged.items()}
    return [JudgedGroups(number=given.number, ends_page=given.ends_page, series=series)]


def _found(verdict: SeriesVerdict) -> SeriesValues:
    return SeriesValues(row=_series_row(verdict), paths=tuple(file.path for file in verdict.files))


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
