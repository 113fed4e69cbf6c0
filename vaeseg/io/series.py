"""From instance headers to series: what belongs together, in which order, and whether it is one volume.

Every header given ends up in exactly one `SeriesVerdict`, readable or refused.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from itertools import pairwise

import numpy as np
from pydicom.uid import generate_uid

from vaeseg.config import ReadingConfig
from vaeseg.errors import ReadingError
from vaeseg.geometry.affine import lps_from_kji
from vaeseg.geometry.stacking import (
    SPACING_ABSOLUTE_TOLERANCE_MM,
    TILT_TOLERANCE_DEGREES,
    Stack,
    distances_along_normal,
    stack_slices,
    unit_directions,
)
from vaeseg.io.headers import (
    InstanceHeader,
    described_image,
    image_digest,
    is_projection,
    refusal_of_geometry,
    refusal_of_object,
    refusal_of_pixels,
)
from vaeseg.io.manifest import SeriesManifest, SliceFile, matrix_as_tuples
from vaeseg.paths import AnyPath, sha256_of
from vaeseg.records import FloatArray, Reason, SeriesRef, Warn

SHARED_WHERE_MEETING = 2
"""Positions that one acquisition has in common with the next of the same scan; phases and repetitions share more."""
ORIENTATION_TOLERANCE = 1e-3
"""Direction cosines of one stack may differ by this much: they are written with about six decimals."""
PIXEL_SPACING_TOLERANCE = 1e-3
"""Relative."""

UNRELATED = frozenset(
    {
        Reason.LOCALIZER,
        Reason.SECONDARY_CAPTURE,
        Reason.ENHANCED_MULTIFRAME_UNSUPPORTED,
        Reason.NOT_AN_IMAGE,
        Reason.DUPLICATE_INSTANCE,
    }
)
"""What may lie under a volume's series UID without a slice of it being lost."""

Refusal = tuple[str, str]
"""Reason and detail."""


@dataclass(frozen=True, kw_only=True)
class SeriesVerdict:
    """What became of a group of files: one readable volume, or a refusal with its reason."""

    series_key: str
    """Unique within a scan; empty for files that belong to no series."""
    ref: SeriesRef | None
    modality: str | None
    files: tuple[SliceFile, ...]
    """All of the group, in slice order where there is one."""
    fingerprint: str
    """64 hex digits over what the files hold; changes when a slice is added, lost, replaced, placed or scaled anew."""
    study_date: date | None = None
    """The earliest that one of the files says."""
    reason: str | None = None
    """None where readable."""
    detail: str | None = None
    manifest: SeriesManifest | None = None
    """None where refused."""
    warnings: tuple[Warn, ...] = ()

    @property
    def readable(self) -> bool:
        """Whether there is a volume."""
        return self.manifest is not None


def assemble_series(root: AnyPath, headers: Iterable[InstanceHeader], config: ReadingConfig) -> list[SeriesVerdict]:
    """Group instances into series and judge each.

    Args:
        root: the directory scanned; opened only to compare files that claim to be the same instance.
        headers: of all DICOM files found, in any order.
        config: bounds.

    Returns:
        Verdicts in the order of study, series and reason; every header is in exactly one.
    """
    groups: dict[tuple[str, str], list[InstanceHeader]] = defaultdict(list)
    for header in headers:
        groups[group_key(header)].append(header)
    verdicts: list[SeriesVerdict] = []
    for key in sorted(groups):
        verdicts += _judge_group(root, sorted(groups[key], key=lambda header: header.path), config)
    return with_unique_keys(verdicts)


def with_unique_keys(verdicts: Sequence[SeriesVerdict]) -> list[SeriesVerdict]:
    """Give later volumes of one series UID the keys ``UID-2``, ``UID-3``; refused groups come after readable ones."""
    used: dict[str, int] = defaultdict(int)
    unique = []
    for verdict in sorted(verdicts, key=lambda verdict: not verdict.readable):
        used[verdict.series_key] += 1
        if verdict.series_key and used[verdict.series_key] > 1:
            key = f"{verdict.series_key}-{used[verdict.series_key]}"
            manifest = verdict.manifest and replace(verdict.manifest, series_key=key)
            verdict = replace(verdict, series_key=key, manifest=manifest)
        unique.append(verdict)
    return unique


def group_key(header: InstanceHeader) -> tuple[str, str]:
    """Study, and series or what stands for it: instances of one group are judged together."""
    return header.study_instance_uid, header.series_instance_uid or header.series_group


def _judge_group(root: AnyPath, headers: list[InstanceHeader], config: ReadingConfig) -> list[SeriesVerdict]:
    """Verdicts of all that shares one series UID: its volumes, and what lies beside them."""
    refused: dict[tuple[Refusal, str], list[InstanceHeader]] = defaultdict(list)
    slices = _set_aside(headers, refusal_of_object, refused)
    placed = _set_aside(slices, refusal_of_geometry, refused)
    distinct = _set_aside_copies(root, placed, refused)
    verdicts = [_refused(group, reason, detail) for ((reason, detail), _), group in refused.items()]
    volumes = _split_by_acquisition(distinct)
    noticed = {
        Warn.INSTANCES_LEFT_OUT: any(reason not in UNRELATED for (reason, _), _ in refused),
        Warn.INSTANCE_NUMBERS_SKIPPED: _numbers_are_skipped(headers),
        Warn.SPLIT_BY_ACQUISITION: len(volumes) > 1,
    }
    of_group = {warning for warning, applies in noticed.items() if applies}
    return verdicts + [_judge_volume(volume, of_group, config) for volume in volumes]


def _numbers_are_skipped(headers: Sequence[InstanceHeader]) -> bool:
    """Whether a number between the first and the last is nobody's, where all have one: scanners count without a gap."""
    numbers = {header.instance_number for header in headers}
    known = {number for number in numbers if number is not None}
    return len(known) == len(numbers) and max(known) - min(known) + 1 > len(known)


def _set_aside(
    headers: Sequence[InstanceHeader],
    refusal_of: Callable[[InstanceHeader], Refusal | None],
    refused: dict[tuple[Refusal, str], list[InstanceHeader]],
) -> list[InstanceHeader]:
    kept = []
    for header in headers:
        refusal = refusal_of(header)
        if refusal is None:
            kept.append(header)
        else:
            refused[refusal, header.modality].append(header)
    return kept


def _set_aside_copies(
    root: AnyPath, headers: Sequence[InstanceHeader], refused: dict[tuple[Refusal, str], list[InstanceHeader]]
) -> list[InstanceHeader]:
    """Files that repeat an instance byte for byte count once; the same UID with other content stays, and is judged."""
    by_uid: dict[str, list[InstanceHeader]] = defaultdict(list)
    for header in headers:
        by_uid[header.sop_instance_uid].append(header)
    kept = list(by_uid.pop("", []))
    for same_uid in by_uid.values():
        contents: set[str] = set()
        for header in same_uid:
            content = _content_digest(root / header.path) if len(same_uid) > 1 else ""
            if content in contents:
                refusal = (Reason.DUPLICATE_INSTANCE, "the same file is in the series already")
                refused[refusal, header.modality].append(header)
            else:
                contents.add(content)
                kept.append(header)
    return kept


def _content_digest(path: AnyPath) -> str:
    """SHA-256 of a file's bytes; a text of its own for a file that cannot be read, so that it equals no other."""
    try:
        return sha256_of(path)
    except OSError:
        return f"unreadable {path}"


def _split_by_acquisition(headers: list[InstanceHeader]) -> list[list[InstanceHeader]]:
    """One list a volume: by AcquisitionNumber if positions repeat and the split resolves it, else all in one.

    Acquisitions that only meet are pieces of one scan: as volumes, they would cut what lies where they do.
    """
    acquisitions: dict[int | None, list[InstanceHeader]] = defaultdict(list)
    for header in headers:
        acquisitions[header.acquisition_number].append(header)
    if not headers:
        return []
    if None in acquisitions or len(acquisitions) == 1 or not _positions_repeat(headers):
        return [headers]
    parts = [acquisitions[number] for number in sorted(acquisitions, key=lambda number: number or 0)]
    return [headers] if any(_positions_repeat(part) for part in parts) or _are_pieces(parts) else parts


def _are_pieces(parts: Sequence[Sequence[InstanceHeader]]) -> bool:
    """Whether some acquisitions lie side by side and share no more than `SHARED_WHERE_MEETING` slices there, or each is
    a single slice."""
    row, column = _directions(parts[0][0])
    in_order = sorted(np.sort(distances_along_normal(_positions(part), row, column)).tolist() for part in parts)
    for one, following in pairwise(in_order):
        n_shared = sum(distance >= following[0] - SPACING_ABSOLUTE_TOLERANCE_MM for distance in one)
        if 0 < n_shared <= SHARED_WHERE_MEETING and n_shared < min(len(one), len(following)):
            return True
    return all(len(part) == 1 for part in parts)


def _positions_repeat(headers: Sequence[InstanceHeader]) -> bool:
    row, column = _directions(headers[0])
    distances = np.sort(distances_along_normal(_positions(headers), row, column))
    return bool((np.diff(distances) <= SPACING_ABSOLUTE_TOLERANCE_MM).any())


def _directions(header: InstanceHeader) -> tuple[FloatArray, FloatArray]:
    orientation = np.array(header.orientation, dtype=np.float64)
    return orientation[:3], orientation[3:]


def _positions(headers: Sequence[InstanceHeader]) -> FloatArray:
    return np.array([header.position for header in headers], dtype=np.float64)


def _judge_volume(headers: list[InstanceHeader], of_group: set[Warn], config: ReadingConfig) -> SeriesVerdict:
    try:
        return _readable(headers, of_group, config)
    except ReadingError as error:
        return _refused(headers, error.reason, error.detail)


def _readable(headers: list[InstanceHeader], of_group: set[Warn], config: ReadingConfig) -> SeriesVerdict:
    _check_size(headers, config)
    _check_patient(headers)
    for header in headers:
        if refusal := refusal_of_pixels(header):
            raise ReadingError(*refusal)
    _check_consistent(headers)
    first = headers[0]
    row, column = unit_directions(np.array(first.orientation, dtype=np.float64))
    positions = _positions(headers)
    stack = _stacked(headers, positions, row, column)
    ordered = [headers[index] for index in stack.order]
    spacing = first.pixel_spacing_mm
    assert spacing is not None  # refusal_of_geometry set those aside
    affine = lps_from_kji(positions[stack.order[0]], row, column, stack.step_mm, spacing)
    warnings = _warnings(ordered, of_group, stack.tilt_degrees)
    files = _slice_files(ordered)
    ref = _ref(headers)
    manifest = SeriesManifest(
        kind="dicom",
        series_key=ref.series_instance_uid,
        ref=ref,
        files=files,
        shape=(len(ordered), first.rows, first.columns),
        lps_from_kji=matrix_as_tuples(affine),
        warnings=warnings,
    )
    return SeriesVerdict(
        series_key=ref.series_instance_uid,
        ref=ref,
        modality=first.modality,
        files=files,
        fingerprint=_fingerprint(ordered),
        study_date=_study_date(ordered),
        manifest=manifest,
        warnings=warnings,
    )


def _stacked(headers: Sequence[InstanceHeader], positions: FloatArray, row: FloatArray, column: FloatArray) -> Stack:
    try:
        return stack_slices(positions, row, column)
    except ReadingError as error:
        if error.reason != Reason.DUPLICATE_POSITIONS:
            raise
        named = [header.sop_instance_uid for header in headers if header.sop_instance_uid]
        n_twice = len(named) - len(set(named))
        if not n_twice:
            raise
        detail = f"{error.detail}; {n_twice} slices are there twice, with one SOPInstanceUID and other bytes"
        raise ReadingError(Reason.DUPLICATE_POSITIONS, detail) from error


def _check_size(headers: Sequence[InstanceHeader], config: ReadingConfig) -> None:
    voxels = sum(header.slice_voxels for header in headers)
    if voxels > config.max_voxels:
        raise ReadingError(Reason.TOO_LARGE, f"headers claim {voxels} voxels, allowed are {config.max_voxels}")


def _check_patient(headers: Sequence[InstanceHeader]) -> None:
    """A stray slice of somebody else makes the whole series, and what is found in it, nobody's."""
    slices_of = Counter(header.subject_key for header in headers if header.subject_key is not None)
    if len(slices_of) > 1:
        counted = " and ".join(str(count) for _, count in slices_of.most_common())
        raise ReadingError(Reason.SEVERAL_PATIENTS, f"slices of {len(slices_of)} patients by PatientID: {counted}")


def _check_consistent(headers: Sequence[InstanceHeader]) -> None:
    first = headers[0]
    for header in headers[1:]:
        if (header.rows, header.columns) != (first.rows, first.columns):
            one, other = (first.rows, first.columns), (header.rows, header.columns)
            raise ReadingError(Reason.INCONSISTENT_GEOMETRY, f"slices of {one} and of {other} rows and columns")
        if not _are_close(header.orientation, first.orientation, rtol=0, atol=ORIENTATION_TOLERANCE):
            raise ReadingError(Reason.INCONSISTENT_GEOMETRY, "slices of different ImageOrientationPatient")
        if not _are_close(header.pixel_spacing_mm, first.pixel_spacing_mm, rtol=PIXEL_SPACING_TOLERANCE):
            detail = f"PixelSpacing {first.pixel_spacing_mm} mm and {header.pixel_spacing_mm} mm"
            raise ReadingError(Reason.INCONSISTENT_GEOMETRY, detail)


def _are_close(
    numbers: Sequence[float] | None, others: Sequence[float] | None, *, rtol: float, atol: float = 1e-8
) -> bool:
    """As numpy has it, which takes 30 microseconds to compare the numbers of two slices; nearly all are equal."""
    return numbers == others or np.allclose(numbers or (), others or (), rtol=rtol, atol=atol)


def _warnings(headers: Sequence[InstanceHeader], of_group: set[Warn], tilt_degrees: float) -> tuple[Warn, ...]:
    found = of_group.union(*(header.warnings for header in headers))
    noticed = {
        Warn.PROJECTION: any(map(is_projection, headers)),
        Warn.GANTRY_TILT: tilt_degrees > TILT_TOLERANCE_DEGREES,
        Warn.SERIES_UID_DERIVED: not headers[0].series_instance_uid,
        Warn.INSTANCE_UID_MISSING: any(not header.sop_instance_uid for header in headers),
    }
    return tuple(sorted(found | {warning for warning, applies in noticed.items() if applies}))


def _refused(headers: Sequence[InstanceHeader], reason: str, detail: str) -> SeriesVerdict:
    ref = _ref(headers)
    return SeriesVerdict(
        series_key=ref.series_instance_uid,
        ref=ref,
        modality=headers[0].modality or None,
        files=_slice_files(headers),
        fingerprint=_fingerprint(headers),
        study_date=_study_date(headers),
        reason=str(reason),
        detail=detail,
    )


def _ref(headers: Sequence[InstanceHeader]) -> SeriesRef:
    """With the patient whom all name that name one."""
    first, subjects = headers[0], {header.subject_key for header in headers} - {None}
    return SeriesRef(
        series_instance_uid=first.series_instance_uid or derived_uid("series", first.series_group),
        study_instance_uid=first.study_instance_uid or derived_uid("study", first.series_group),
        subject_key=subjects.pop() if len(subjects) == 1 else None,
    )


def _study_date(headers: Sequence[InstanceHeader]) -> date | None:
    return min((header.study_date for header in headers if header.study_date is not None), default=None)


def derived_uid(level: str, text: str) -> str:
    """A UID for what has none, the same for the same text: pydicom's root and a digest."""
    return str(generate_uid(entropy_srcs=["vaeseg", level, text]))


def _slice_files(headers: Sequence[InstanceHeader]) -> tuple[SliceFile, ...]:
    return tuple(
        SliceFile(path=h.path, size=h.size, sop_instance_uid=h.sop_instance_uid, image_digest=image_digest(vars(h)))
        for h in headers
    )


def _fingerprint(headers: Sequence[InstanceHeader]) -> str:
    """Over instance UIDs, file sizes, and what headers say that masks or findings depend on; by path where UIDs lack.

    A file that was moved or touched is the same work, one whose spacing or sign was corrected in place is not.
    """
    lines = sorted(_state(header) for header in headers)
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def _state(header: InstanceHeader) -> str:
    which = header.sop_instance_uid or (header.path, header.mtime_ns)
    said = (header.photometric, sorted(map(str, header.warnings)))
    return f"{which!r} {header.size} {described_image(vars(header))} {said!r}"
